"""Command lines: parsers that complain like the rest of graft, and what commands that compose have in common."""

import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from graft.errors import UserError, nearest

# In what argparse says of an option that is not there, and of a value that is none of the choices.
UNKNOWN_OPTION = re.compile(r"unrecognized arguments: (?:[^-]\S* )*(--?[^\s=]+)")
UNKNOWN_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")
NAME = re.compile(r"[\w.-]+")


class Parser(ArgumentParser):
    """Raises instead of printing its usage and leaving the program."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message}; {self._nearest(message) or f'{self.prog} --help says more'}")

    def _nearest(self, message: str) -> str | None:
        """What argparse's message may have been about, as a question; None where nothing is near."""
        if found := UNKNOWN_OPTION.search(message):
            options = {option.lstrip("-"): option for option in self._option_string_actions}  # dashes are always alike
            match = options.get(nearest(found[1].lstrip("-"), options) or "")
        elif found := UNKNOWN_CHOICE.search(message):
            match = nearest(found[1], NAME.findall(found[2]))
        else:
            return None
        return f"did you mean {match!r}?" if match else None


def command_parser(name: str, **settings: Any) -> Parser:
    """A parser for the command `name` that describes it by its module's docstring."""
    summary = import_module(f"graft.cli.commands.{name}").__doc__ or ""
    description = summary.replace("``", "").strip()
    parser = Parser(
        prog=f"graft {name}", description=description, formatter_class=RawDescriptionHelpFormatter, **settings
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_composition(parser: ArgumentParser) -> None:
    """The arguments of commands that compose a configuration."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="choices and values, as for a run")
    parser.add_argument("--config-dir", "-cd", type=Path, metavar="DIR", help="a folder with groups of your own")


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Any:
    """Parse with options before, between and after the words."""
    return parser.parse_intermixed_args(arguments)
