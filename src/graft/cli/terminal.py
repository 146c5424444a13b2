"""The terminal that tables are printed to."""

import os
import sys

from rich.console import Console

WIDTH_OF_FILES = 120  # columns where no terminal and no COLUMNS says how many there are


def terminal() -> Console:
    """A console as wide as the terminal, or wide enough to read where the output goes to a file or a pipe."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else WIDTH_OF_FILES)
