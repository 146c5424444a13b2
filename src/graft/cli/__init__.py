"""The program `graft`: commands, Hydra, folders; what a user types and reads."""
