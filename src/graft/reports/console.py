"""The console that tables are printed to."""

import os
from typing import IO

from rich.console import Console

PLAIN_WIDTH = 120  # columns where neither a terminal nor COLUMNS says how many there are


def make_console(file: IO[str] | None = None) -> Console:
    """A console for `file` (standard output): as wide as the terminal, else wide enough to read in a file or a pipe."""
    console = Console(file=file, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN_WIDTH
    return console
