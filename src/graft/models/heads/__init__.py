"""What turns features into logits."""
