"""Print one choice: its file, and what it comes to together with the files it builds on.

graft show strategy/lp_ft
"""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from graft.cli.arguments import command_parser, parse
from graft.cli.catalogue import choices_called, find_file
from graft.cli.compose import group_config, hydra_application
from graft.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Print one configuration; returns the exit code."""
    parser = command_parser("show")
    parser.add_argument("choice", metavar="GROUP/NAME", help="as in GROUP=NAME")
    parser.add_argument("--config-dir", "-cd", type=Path, metavar="DIR", help="a folder with groups of your own")
    options = parse(parser, arguments)
    group, slash, name = options.choice.rpartition("/")
    with hydra_application(options.config_dir) as hydra:
        if not slash:
            meant = " or ".join(map(repr, choices_called(hydra.config_loader, name)))
            hint = f"; did you mean {meant}?" if meant else ", such as strategy/lp_ft"
            raise UserError(f"{options.choice}: expected GROUP/NAME{hint}")
        text = find_file(hydra.config_loader, group, name).read_text(encoding="utf-8")
        print(text.rstrip())
        if "\ndefaults:" in text and "@package _global_" not in text:
            whole = OmegaConf.create(group_config(hydra.config_loader, group, name, resolve=False))
            print(f"\n# {group}/{name} as a whole\n{OmegaConf.to_yaml(whole).rstrip()}")
    return 0
