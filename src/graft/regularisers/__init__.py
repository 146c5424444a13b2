"""Regularised fine-tuning: what keeps a network near what it learned from the source, one method a file."""
