"""Parametrisations: what is trained in place of a backbone's own weights."""
