"""Using what a run left: its network on images, on other data, and as a file for other programs."""
