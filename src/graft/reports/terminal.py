"""Tables for the terminal."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from graft.reports.tables import ACCURACY, Record, group_rows


def percent(value: float | None) -> str:
    """0.914 as `91.4 %`."""
    return "" if value is None else f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of accuracies, 0.052, as `+5.2 points`."""
    return f"{100 * value:+.1f} points"


def with_spread(figure: Mapping[str, float] | None, scale: float = 100.0, sign: str = "") -> str:
    """`91.4 ± 0.3`, or the mean alone where there is one value."""
    if figure is None:
        return ""
    mean = f"{scale * figure['mean']:{sign}.1f}"
    return mean if math.isnan(figure["std"]) else f"{mean} ± {scale * figure['std']:.1f}"


def print_run(record: Record, folder: Path, console: Console) -> None:
    """The final table of one run: did transfer help, by how much, at what cost."""
    table = Table(title=title(record), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in run_rows(record):
        table.add_row(name, value)
    console.print()
    console.print(table)
    if record["transfer"].get("negative"):
        console.print(
            f"[bold yellow]Negative transfer:[/] {record['strategy']} ended below its {record['transfer']['baseline']} "
            "baseline on the same labels and budget."
        )
    console.print(f"[dim]{folder}[/]", soft_wrap=True)


def title(record: Record) -> str:
    """What was transferred to what, and how."""
    origin = record["source"] if record["weights"] == "source" else record["weights"]
    return f"{origin} → {record['target']}, {record['backbone']}, {record['strategy']}, seed {record['seed']}"


def run_rows(record: Record) -> list[tuple[str, str]]:
    """The lines of the final table."""
    cost, transfer = record["cost"], record["transfer"]
    rows = [("target accuracy", percent(record["metrics"][ACCURACY]))]
    for name, baseline in record["baselines"].items():
        rows.append((f"{name} baseline", percent(baseline["metrics"][ACCURACY])))
    if transfer:
        rows.append(("gain", f"{points(transfer['gain'])} over {transfer['baseline']}"))
        rows.append(("passed its best", passing(transfer)))
    if "source/test/accuracy" in record["metrics"]:
        after = record["metrics"].get("source/test/accuracy_after_transfer")
        forgetting = f" before transfer, {percent(after)} after" if after is not None else ""
        rows.append(("source accuracy", percent(record["metrics"]["source/test/accuracy"]) + forgetting))
    seconds = f"{cost['pretrain_seconds']:.1f} pretraining, {cost['fit_seconds']:.1f} transfer"
    if record["baselines"]:
        seconds += f", {cost['baseline_seconds']:.1f} baseline"
    rows.append(("seconds", seconds))
    rows.append(("parameters trained", f"{cost['trainable_parameters']:,} of {cost['num_parameters']:,}"))
    return rows


def passing(transfer: Mapping[str, Any]) -> str:
    """When transfer passed the baseline's best validation accuracy."""
    if transfer["steps_to_pass_baseline"] is None:
        return "not within this budget"
    return (
        f"after {transfer['steps_to_pass_baseline']} steps, {transfer['seconds_to_pass_baseline']:.1f} s "
        f"(the baseline took {transfer['baseline_steps']} steps, {transfer['baseline_seconds']:.1f} s)"
    )


def print_summary(records: Sequence[tuple[Path, Record]], console: Console) -> None:
    """One row for each setting, over its seeds; then every run that failed or is missing its end."""
    rows = group_rows([record for _, record in records])
    if rows:
        console.print()
        console.print(summary_table(rows))
        console.print("[dim]mean ± sample standard deviation over seeds, in percent; gain in points[/]")
    for name in dict.fromkeys(name for row in rows for name in row["differs"]):
        console.print(f"[bold yellow]Not averaged:[/] runs of one setting differ in the fingerprint {name!r}.")
    for folder, record in records:
        if record["status"] != "done":
            reason = str(record.get("error") or "interrupted").strip().splitlines()[-1]
            console.print(f"[bold red]{record['status']}[/] {folder}: {reason}", soft_wrap=True)


def summary_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of `group_rows` as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = list(rows[0]["setting"]) or ["experiment"]
    for name in names:
        table.add_column(name, overflow="fold")
    for name in ("n", "accuracy", "baseline", "gain", "seconds", "trained"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        values = [str(value) for value in row["setting"].values()] or ["all"]
        table.add_row(
            *values,
            str(row["n"]),
            with_spread(row["accuracy"]),
            with_spread(row["scratch"]),
            with_spread(row["gain"], sign="+"),
            with_spread(row["seconds"], scale=1.0),
            f"{row['trainable_parameters']:,}",
        )
    return table
