"""Show what would be trained when, and at which learning rate; trains nothing.

Takes the choices and values of a run: graft plan strategy=gradual_unfreeze backbone=resnet20
"""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from graft.cli.arguments import add_composition, command_parser, parse
from graft.cli.compose import compose, hydra_application, refuse
from graft.cli.jobs import check
from graft.reports.console import make_console


def main(arguments: Sequence[str]) -> int:
    """Print the plan of a run; returns the exit code."""
    parser = command_parser("plan")
    add_composition(parser)
    options = parse(parser, arguments)
    with hydra_application(options.config_dir) as hydra:
        config = compose(hydra.config_loader, options.overrides)
    refuse(check(config))
    from graft.build.assembly import build_experiment
    from graft.pipeline import plan

    make_console().print(plan_table(plan(build_experiment(config))))
    return 0


def plan_table(rows: Sequence[dict[str, Any]]) -> Any:
    """The rows of a plan as a table: each phase's name at its first line, neighbouring groups alike on one line."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("phase", "epochs", "groups"):
        table.add_column(name, overflow="fold")
    for name in ("parameters", "state", "lr", "decay", "norm"):
        table.add_column(name, justify="left" if name in ("state", "norm") else "right", no_wrap=True, min_width=6)
    previous = None
    for members in alike(rows):
        first = members[0]
        heading = (first["phase"], first["first_epoch"])
        shown = ("", "") if heading == previous else (first["phase"], epochs(first))
        table.add_row(*shown, *cells(members), style="dim" if first["state"] == "frozen" else None)
        previous = heading
    return table


def alike(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Runs of rows that say the same of neighbouring groups."""
    same = itemgetter("phase", "first_epoch", "state", "lr", "weight_decay", "norm")
    return [list(members) for _, members in groupby(rows, key=same)]


def epochs(row: dict[str, Any]) -> str:
    """`4-7`, or `4-7 at most` for a phase that ends when a metric stops improving."""
    first, last = row["first_epoch"] + 1, row["first_epoch"] + row["epochs"]
    span = f"{first}" if first == last else f"{first}-{last}"
    return f"{span} at most" if row["plateau"] else span


def cells(members: Sequence[dict[str, Any]]) -> list[str]:
    """What rows that are alike say of their groups."""
    first = members[0]
    rates = ["" if first[name] is None else f"{first[name]:g}" for name in ("lr", "weight_decay")]
    names = dict.fromkeys(row["group"].removeprefix("backbone.") for row in members)
    num_parameters = sum(row["num_parameters"] for row in members)
    return [", ".join(names), f"{num_parameters:,}", first["state"], *rates, first["norm"] or ""]
