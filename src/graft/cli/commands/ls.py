"""List the groups, or the choices of one group, each with a line about it.

graft ls; graft ls strategy
"""

from collections.abc import Sequence
from pathlib import Path

from graft.cli.arguments import command_parser, parse
from graft.cli.catalogue import all_groups, choices, described
from graft.cli.compose import hydra_application


def main(arguments: Sequence[str]) -> int:
    """Print groups or choices; returns the exit code."""
    parser = command_parser("ls")
    parser.add_argument("group", nargs="?", metavar="GROUP", help="as in GROUP=NAME")
    parser.add_argument("--config-dir", "-cd", type=Path, metavar="DIR", help="a folder with groups of your own")
    options = parse(parser, arguments)
    with hydra_application(options.config_dir) as hydra:
        loader = hydra.config_loader
        if options.group is None:
            rows = [(name, ", ".join(choices(loader, name))) for name in all_groups(loader)]
        else:
            rows = [(name, described(loader, options.group, name)) for name in choices(loader, options.group)]
    width = max((len(name) for name, _ in rows), default=0) + 2
    for name, text in rows:
        print(f"{name:<{width}}{text}".rstrip())
    return 0
