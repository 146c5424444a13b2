"""One module for each command, with its summary as the first line of the docstring and a `main(arguments) -> int`."""
