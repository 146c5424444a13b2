"""How well a source's features will serve a target, told before anything is fine-tuned: one function a file."""
