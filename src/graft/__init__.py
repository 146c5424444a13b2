"""graft: transfer-learning experiments with the evidence included."""

from graft import base_metrics

__version__ = "0.1.0"

base_metrics.install()
