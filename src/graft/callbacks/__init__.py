"""What happens around training: checkpoints, logs, progress."""
