"""Which runs may go into one soup, the record of a soup, and the table of runs and soups."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from graft.errors import UserError
from graft.records.hashing import code_fingerprint, content_hash
from graft.records.record import end_record, start_record
from graft.reports.notes import named, shown
from graft.reports.settings import Record, choice, varied_keys
from graft.reports.tables import ACCURACY, short_fingerprint
from graft.reports.terminal import percent

Run = tuple[Path, Record]

VAL_ACCURACY = "target/val/accuracy"


def pots(records: Sequence[Run]) -> list[list[Run]]:
    """The finished runs by the weights that they started from, repetitions left out; each pot holds two or more.

    Raises:
        UserError: runs that differ in network or target, that started from random weights or were not validated, or
            too few of a start.
    """
    newest: dict[str, Run] = {}
    for folder, record in records:
        if record["status"] == "done" and "soup" not in record:
            other = newest.get(record["id"])
            if other is None or str(record["finished"]) >= str(other[1]["finished"]):
                newest[record["id"]] = (folder, record)
    runs = list(newest.values())
    if len(runs) < 2:
        raise UserError(f"a soup needs two finished runs or more, here {'is 1' if runs else 'are none'}")
    refuse_different(runs)
    scratch = [folder for folder, record in runs if record["fingerprints"]["weights"] is None]
    if scratch:
        raise UserError(f"{shown(scratch[0])}: started from random weights; the runs of a soup share pretrained ones")
    unvalidated = [folder for folder, record in runs if VAL_ACCURACY not in record["metrics"]]
    if unvalidated:
        raise UserError(f"{shown(unvalidated[0])}: has no validation accuracy, by which the greedy soup takes its runs")
    by_start: dict[str, list[Run]] = {}
    for folder, record in runs:
        by_start.setdefault(record["fingerprints"]["weights"], []).append((folder, record))
    alone = [pot[0] for pot in by_start.values() if len(pot) == 1]
    if alone:
        folder, record = alone[0]
        start = short_fingerprint(record["fingerprints"]["weights"])
        raise UserError(
            f"{shown(folder)}: no other run starts from its weights ({start}, seed {record['seed']}); "
            "a soup needs two runs or more from the same start, such as those of a sweep over optimizer.lr"
        )
    return list(by_start.values())


def refuse_different(runs: Sequence[Run]) -> None:
    """Refuse runs whose weights cannot be averaged, or whose accuracies cannot be compared.

    Raises:
        UserError: with a line for everything that differs, each value with the first run that has it.
    """
    lines = []
    for name in network_and_target(runs[0][1]):
        values: dict[str, Run] = {}
        for folder, record in runs:
            values.setdefault(content_hash(network_and_target(record)[name]), (folder, record))
        if len(values) > 1:
            found = ", ".join(f"{chosen(record, name)} ({shown(folder)})" for folder, record in values.values())
            lines.append(f"{name}: differs between the runs: {found}; a soup is of one network and one target")
    if lines:
        raise UserError("\n".join(lines))


def network_and_target(record: Record) -> dict[str, Any]:
    """What the runs of a soup must agree in."""
    config, fingerprints = record["config"], record["fingerprints"]
    backbone = {key: value for key, value in config["backbone"].items() if key not in ("weights", "reinitialise")}
    return {
        "backbone": backbone,
        "mapping": config["mapping"],
        "head": config["head"],
        "target": [fingerprints["target_data"], fingerprints["preprocessing"]],
    }


def chosen(record: Record, name: str) -> str:
    """What a record has of `network_and_target`, in a word."""
    if name == "target":
        return f"{record['target']} {short_fingerprint(record['fingerprints']['target_data'])}"
    return str(choice(record, name))


def best_run(pot: Sequence[Run]) -> Run:
    """The run with the best accuracy on val, the first of several."""
    return max(pot, key=lambda run: run[1]["metrics"][VAL_ACCURACY])


def soup_record(
    kind: str, pot: Sequence[Run], members: Sequence[int], metrics: Mapping[str, float], classes: Mapping[str, Any]
) -> dict[str, Any]:
    """The record of a soup: what its runs have in common, its own scores, and the cost of all runs together."""
    best, records = best_run(pot)[1], [record for _, record in pot]
    config = in_common([record["config"] for record in records]) | {"soup": kind}
    record = start_record(best["experiment"], best["seed"], config)
    same = {
        key: best[key] if all(other[key] == best[key] for other in records) else "several"
        for key in ("source", "strategy", "objective")
    }
    cost = {key: sum(record["cost"][key] for record in records) for key in ("fit_seconds", "steps")}
    record |= same | {key: best[key] for key in ("target", "backbone", "weights")}
    record |= {
        "metrics": dict(metrics),
        "selection": {"rule": None, "best_epoch": None},
        "baselines": {},
        "transfer": {},
        "cost": best["cost"] | cost | {"baseline_seconds": 0.0},
        "fingerprints": best["fingerprints"] | {"code": code_fingerprint()},
        "classes": dict(classes),
        "history": [],
        "soup": {"kind": kind, "runs": [described(run, i in members) for i, run in enumerate(pot)]},
    }
    return end_record(record, "done")


def described(run: Run, is_member: bool) -> dict[str, Any]:
    """One run of a pot as the soup's record names it."""
    folder, record = run
    scores = {name: record["metrics"][name] for name in (VAL_ACCURACY, ACCURACY)}
    return {"folder": str(folder), "id": record["id"], "in_soup": is_member} | scores


def in_common(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The part of nested configurations that is the same in all; a group that was chosen differently is left out."""
    first = configs[0]
    shared: dict[str, Any] = {}
    for key, value in first.items():
        values = [config.get(key) for config in configs]
        if all(other == value for other in values):
            shared[key] = value
        elif all(isinstance(other, Mapping) for other in values) and not _chosen_differently(values):
            shared[key] = in_common(values)  # type: ignore[arg-type]
    return shared


def _chosen_differently(nodes: Sequence[Any]) -> bool:
    return len({repr((node.get("_target_"), node.get("name"))) for node in nodes}) > 1


def print_soups(pot: Sequence[Run], soups: Sequence[Record], console: Console) -> None:
    """Each run of a pot, the best of them by val, and its soups: accuracies on val and test."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("run", "val", "test", *(record["soup"]["kind"] for record in soups)):
        table.add_column(heading, justify="left" if heading == "run" else "right")
    names = varied_keys([record for _, record in pot])
    for i, (_, record) in enumerate(pot):
        joined = ["✓" if soup["soup"]["runs"][i]["in_soup"] else "" for soup in soups]
        table.add_row(Text(named(record, names)), *accuracies(record), *joined)
    table.add_section()
    table.add_row("best run on val", *accuracies(best_run(pot)[1]))
    for soup in soups:
        members = sum(run["in_soup"] for run in soup["soup"]["runs"])
        table.add_row(Text(f"{soup['soup']['kind']} soup of {members}", style="bold"), *accuracies(soup))
    console.print()
    first = pot[0][1]
    console.print(Text(f"{first['target']}, {first['backbone']}, seed {first['seed']}", style="bold"))
    console.print(table)


def accuracies(record: Record) -> tuple[str, str]:
    """Accuracies on val and test."""
    return percent(record["metrics"][VAL_ACCURACY]), percent(record["metrics"][ACCURACY])
