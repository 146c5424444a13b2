"""One file for each kind of place that data come from."""
