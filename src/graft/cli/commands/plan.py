"""Show what would be trained when, at which learning rate and at what cost; trains nothing that is kept.

Takes the choices and values of a run: graft plan strategy=gradual_unfreeze backbone=resnet20
The plan can be written down as a strategy to be edited: graft plan strategy=ulmfit --write my_conf/strategy/mine.yaml
"""

import logging
import time
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.cli.arguments import add_composition, command_parser, parse
from graft.cli.catalogue import check_free, check_name
from graft.cli.compose import compose, hydra_application, refuse
from graft.cli.jobs import check, log_to_terminal
from graft.cli.source import conf_folder
from graft.errors import UserError
from graft.records.files import atomic_write_bytes
from graft.reports.console import make_console

if TYPE_CHECKING:
    from graft.estimate import Cost
    from graft.experiment import Experiment

AUTO_GROUPS = "strategy.groups=auto: chosen when the stage begins; {} stands for it here"


def main(arguments: Sequence[str]) -> int:
    """Print the plan of a run; returns the exit code."""
    began = time.monotonic()
    parser = command_parser("plan")
    add_composition(parser)
    parser.add_argument("--no-trial", action="store_true", help="leave out time and memory, which a few steps tell")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the plan as a strategy: NAME.yaml")
    options = parse(parser, arguments)
    if options.write is not None:
        check_file(options.write)
    with hydra_application(options.config_dir) as hydra:
        config = compose(hydra.config_loader, options.overrides)
    refuse(check(config))
    from graft.build.assembly import build_experiment
    from graft.pipeline import plan, plan_adapter

    console, experiment = make_console(), build_experiment(config)
    start = time.monotonic() - began  # a run has as much to import and to check
    rows = plan(experiment)
    console.print(plan_table(rows))
    if config["strategy"].get("groups") == "auto":
        console.print(AUTO_GROUPS.format(rows[0]["group"].removeprefix("backbone.")), soft_wrap=True)
    if (adapter := plan_adapter(experiment)) is not None:
        console.print(adapter_line(adapter), soft_wrap=True)
    if options.write is not None:
        console.print(write_strategy(experiment, options.write), soft_wrap=True, markup=False)
    if not options.no_trial:
        from graft.estimate import Cost, estimate_run
        from graft.threads import paying_threads

        log_to_terminal(logging.WARNING)
        with paying_threads(experiment):
            costs = [Cost("start", start), *estimate_run(experiment)]
        for line in cost_lines(costs):
            console.print(line, soft_wrap=True)
    return 0


def check_file(path: Path) -> None:
    """Refuse a path that no new strategy can have.

    Raises:
        UserError: it does not end in `NAME.yaml`, or is there already.
    """
    if path.suffix != ".yaml":
        raise UserError(f"--write {path}: expected the name of a file that ends in .yaml")
    check_name(path.stem)
    check_free(path.expanduser())


def write_strategy(experiment: "Experiment", path: Path) -> str:
    """Write what is planned as a strategy of its own; returns what to do with it."""
    import yaml

    from graft.pipeline import written_plan

    path = path.expanduser()
    settings = {"_target_": experiment.config["strategy"]["_target_"], **written_plan(experiment, path.stem)}
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=120)
    training = experiment.transfer
    first = (
        f"# As {training.strategy.name} on {experiment.backbone().name} in {training.max_epochs} epochs, written out."
    )
    atomic_write_bytes(path, f"{first}\n{text}".encode())
    if path.parent.name != "strategy":
        return f"graft: wrote {path}; to use it, put it into a folder DIR/strategy: graft strategy={path.stem} -cd DIR"
    root = path.parent.parent
    where = "" if root.resolve() == conf_folder().resolve() else f" --config-dir {root}"
    return f"graft: wrote {path}; edit it, then: graft strategy={path.stem}{where}"


def adapter_line(adapter: dict[str, Any]) -> str:
    """An adapter's size, and the layers that it was meant for and could not take.

    >>> adapter_line({"kind": "ia3", "parameters": 9, "share": 0.5, "layers": ["fc"], "skipped": {"X layers": 2}})
    'adapter ia3: 1 layer, 9 parameters; with the head, 50.00 % of all are trained; 2 left out (X layers)'
    """
    num, skipped = len(adapter["layers"]), adapter["skipped"].items()
    parts = [
        f"adapter {adapter['kind']}: {num} layer{'' if num == 1 else 's'}, {adapter['parameters']:,} parameters",
        f"with the head, {adapter['share']:.2%} of all are trained".replace("%", " %"),
        *(f"{count} left out ({reason})" for reason, count in skipped),
    ]
    return "; ".join(parts)


def cost_lines(costs: Sequence["Cost"]) -> list[str]:
    """`about 45 s: 4 s start, 2 s data, pretraining in the store, 39 s transfer`; memory of the largest phase."""
    parts = [f"{cost.name} in the store" if cost.in_store else f"{seconds(cost.seconds)} {cost.name}" for cost in costs]
    lines = [f"about {seconds(sum(cost.seconds for cost in costs))}: {', '.join(parts)}"]
    memory = max((cost.memory for cost in costs if cost.memory), key=lambda memory: memory.total, default=None)
    if memory is not None:
        lines.append(
            f"memory: about {mebibytes(memory.total)} beside data and libraries: {mebibytes(memory.parameters)} "
            f"parameters, {mebibytes(memory.gradients)} gradients, {mebibytes(memory.optimizer)} optimizer, "
            f"{mebibytes(memory.activations)} activations of one batch (measured)"
        )
    return lines


def seconds(value: float) -> str:
    """Seconds without more digits than an estimate has.

    >>> seconds(0.44), seconds(41.3), seconds(7300)
    ('0.4 s', '41 s', '2 h 2 min')
    """
    if value < 600:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    hours, minutes = divmod(round(value / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def mebibytes(num_bytes: int) -> str:
    """Bytes as MiB.

    >>> mebibytes(250_000), mebibytes(45 * 2**20)
    ('0.2 MiB', '45 MiB')
    """
    value = num_bytes / 2**20
    return f"{value:.1f} MiB" if value < 9.95 else f"{value:.0f} MiB"


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
    same = itemgetter("phase", "first_epoch", "state", "lr_scale", "weight_decay", "norm")
    return [list(members) for _, members in groupby(rows, key=same)]


def epochs(row: dict[str, Any]) -> str:
    """`4-7`, or `4-7 at most` for a phase that ends when a metric stops improving."""
    first, last = row["first_epoch"] + 1, row["first_epoch"] + row["epochs"]
    span = f"{first}" if first == last else f"{first}-{last}"
    return f"{span} at most" if row["plateau"] else span


def cells(members: Sequence[dict[str, Any]]) -> list[str]:
    """What rows that are alike say of their groups."""
    first = members[0]
    decay = "" if first["weight_decay"] is None else f"{first['weight_decay']:g}"
    names = dict.fromkeys(row["group"].removeprefix("backbone.") for row in members)
    num_parameters = sum(row["num_parameters"] for row in members)
    return [", ".join(names), f"{num_parameters:,}", first["state"], rate(first), decay, first["norm"] or ""]


def rate(row: dict[str, Any]) -> str:
    """A group's learning rate; where it is yet to be found, its multiple of that."""
    if row["lr"] is not None:
        return f"{row['lr']:g}"
    if row["lr_scale"] is None:
        return ""
    return "auto" if row["lr_scale"] == 1.0 else f"{row['lr_scale']:g} x auto"
