"""Show what would be trained when, and at which learning rate; trains nothing.

Takes the choices and values of a run: graft plan strategy=gradual_unfreeze backbone=resnet20
"""

from collections.abc import Sequence
from typing import Any

from graft.cli.arguments import add_composition, command_parser, parse
from graft.cli.compose import compose, hydra_application, refuse
from graft.cli.jobs import check


def main(arguments: Sequence[str]) -> int:
    """Print the plan of a run; returns the exit code."""
    parser = command_parser("plan")
    add_composition(parser)
    options = parse(parser, arguments)
    with hydra_application(options.config_dir) as hydra:
        config = compose(hydra.config_loader, options.overrides)
    refuse(check(config))
    from rich.console import Console

    from graft.build.assembly import build_experiment
    from graft.pipeline import plan

    Console().print(plan_table(plan(build_experiment(config))))
    return 0


def plan_table(rows: Sequence[dict[str, Any]]) -> Any:
    """The rows of a plan as a table, each phase's name at its first row."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [("phase", "left"), ("epochs", "right"), ("group", "left"), ("parameters", "right"), ("state", "left")]
    columns += [("lr", "right"), ("weight decay", "right"), ("norm", "left")]
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    previous = None
    for row in rows:
        heading = (row["phase"], row["first_epoch"])
        shown = ("", "") if heading == previous else (row["phase"], epochs(row))
        style = "dim" if row["state"] == "frozen" else None
        table.add_row(*shown, *cells(row), style=style, end_section=False)
        previous = heading
    return table


def epochs(row: dict[str, Any]) -> str:
    """`4-7`, or `4-7 at most` for a phase that ends when a metric stops improving."""
    first, last = row["first_epoch"] + 1, row["first_epoch"] + row["epochs"]
    span = f"{first}" if first == last else f"{first}-{last}"
    return f"{span} at most" if row["plateau"] else span


def cells(row: dict[str, Any]) -> list[str]:
    """What a row says of one layer group."""
    rates = ["" if row[name] is None else f"{row[name]:g}" for name in ("lr", "weight_decay")]
    return [row["group"], f"{row['num_parameters']:,}", row["state"], *rates, row["norm"] or ""]
