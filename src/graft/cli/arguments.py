"""Command lines: parsers that complain like the rest of graft, and what commands that compose have in common."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from graft.errors import UserError


class Parser(ArgumentParser):
    """Raises instead of printing its usage and leaving the program."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message}; {self.prog} --help says more")


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
