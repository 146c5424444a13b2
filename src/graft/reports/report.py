"""The report on whatever runs lie in some folders."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from graft.records.files import atomic_write_bytes
from graft.records.record import find_records
from graft.reports.comparison import Reference, parse_reference
from graft.reports.comparison_table import print_comparison
from graft.reports.export import markdown_summary, results_csv
from graft.reports.latex import latex_summary
from graft.reports.selection import print_selection
from graft.reports.tables import Runs
from graft.reports.terminal import print_run, print_summary
from graft.reports.transferred import print_transferred

# What no report shows, and most of a record otherwise.
UNUSED = ("reliability", "learning_rates", "numerics", "batch_sizes")
CURVES = ("epoch", "step", "seconds", "val/accuracy")


def report(
    folders: Sequence[Path], console: Console, files: Mapping[str, Path] | None = None, against: Sequence[str] = ()
) -> None:
    """Print the report on every run at or below `folders`, and write it to files where these are named.

    Args:
        folders: runs, sweeps, or folders of them.
        console: where it is printed: the final table of a run that stands alone, the summary of several.
        files: kind (one of `WRITERS`) -> the file to be written.
        against: `KEY=VALUE` of the setting that others are compared with; none for each run's own baseline.

    Raises:
        UserError: a folder that does not exist, one in which no record can be read, or a reference that no run has.
    """
    runs = Runs(find_records(folders, Trimmed()))
    reference = parse_reference(against, runs.study)
    show(runs, reference, console)
    for kind, path in (files or {}).items():
        atomic_write_bytes(path.expanduser(), WRITERS[kind](runs, reference).encode())
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def show(runs: Runs, reference: Reference, console: Console) -> None:
    """Print the final table of a run that stands alone, else the summary, comparison and what was transferred."""
    folder, record = runs[0]
    if len(runs) == 1 and record["status"] == "done":
        print_run(record, folder, console)
    else:
        print_summary(runs, console)
        print_comparison(runs.study, reference, console)
        print_transferred(runs.study, console)
        print_selection(runs.study, console)


def csv_report(runs: Runs, reference: Reference) -> str:
    """One line a run, to which nothing is compared."""
    return results_csv(runs)


WRITERS: dict[str, Callable[[Runs, Reference], str]] = {
    "csv": csv_report,
    "markdown": markdown_summary,
    "latex": latex_summary,
}


class Trimmed:
    """Makes of each record what reports show of it; equal parts of configurations are then one in memory."""

    def __init__(self) -> None:
        self.groups: dict[str, Any] = {}

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record without what no report shows."""
        kept = {name: value for name, value in record.items() if name not in UNUSED}
        kept["config"] = {name: self.groups.setdefault(repr(value), value) for name, value in record["config"].items()}
        if "history" in record:
            kept["history"] = curve(record["history"])
        if "baselines" in record:
            kept["baselines"] = {name: trimmed_baseline(baseline) for name, baseline in record["baselines"].items()}
        return kept


def trimmed_baseline(baseline: Mapping[str, Any]) -> dict[str, Any]:
    """A baseline without what no report shows."""
    kept = {name: value for name, value in baseline.items() if name not in UNUSED}
    return kept | {"history": curve(baseline["history"])}


def curve(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The columns of a history that are shown."""
    return [{name: row[name] for name in CURVES if name in row} for row in history]
