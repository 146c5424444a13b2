"""Adaptation to a target without labels: terms of the loss on source and target features, a file each."""
