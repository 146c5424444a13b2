"""graft: transfer-learning experiments with the evidence included."""

__version__ = "0.1.0"
