"""What Hydra finds of graft by the name of the package `hydra_plugins`."""
