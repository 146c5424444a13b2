"""Networks: backbones, mappings and heads, and their weights."""
