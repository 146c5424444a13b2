"""The report on whatever runs lie in some folders."""

import marshal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from graft.records.files import atomic_write_bytes
from graft.records.record import find_records
from graft.reports.across import markdown_across
from graft.reports.comparison import Reference, parse_reference
from graft.reports.comparison_table import print_comparison
from graft.reports.export import markdown_summary, results_csv
from graft.reports.latex import latex_summary
from graft.reports.selection import print_selection
from graft.reports.tables import Runs, whole
from graft.reports.terminal import print_run, print_summary
from graft.reports.transferred import print_transferred

# Most of a record, and nothing of it is in a table of several runs; plots read it again for the few runs they show.
UNUSED = ("history", "classes", "reliability", "learning_rates", "numerics", "batch_sizes", "micro_batches")


def report(
    folders: Sequence[Path],
    console: Console,
    files: Mapping[str, Path] | None = None,
    against: Sequence[str] = (),
    across: str | None = None,
) -> None:
    """Print the report on every run at or below `folders`, and write it to files where these are named.

    Args:
        folders: runs, sweeps, or folders of them.
        console: where it is printed: the final table of a run that stands alone, the summary of several.
        files: kind (one of `WRITERS`) -> the file to be written.
        against: `KEY=VALUE` of the setting that others are compared with; none for each run's own baseline.
        across: what the columns of the Markdown are, if it shall be one table.

    Raises:
        UserError: a folder that does not exist, one in which no record can be read, a reference that no run has, or
            columns of what does not vary.
    """
    named = any(folder.expanduser().is_file() for folder in folders)  # files of any name are not found again
    runs = Runs(find_records(folders) if named else find_records(folders, Trimmed(), UNUSED))
    reference = parse_reference(against, runs.study)
    show(runs, reference, console)
    for kind, path in (files or {}).items():
        text = markdown_across(runs, across) if kind == "markdown" and across else WRITERS[kind](runs, reference)
        atomic_write_bytes(path.expanduser(), text.encode())
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def show(runs: Runs, reference: Reference, console: Console) -> None:
    """Print the final table of a run that stands alone, else the summary, comparison and what was transferred."""
    folder, record = runs[0]
    if len(runs) == 1 and record["status"] == "done":
        print_run(whole(folder, record), folder, console)
    else:
        print_summary(runs, console)
        print_comparison(runs.study, reference, console)
        print_transferred(runs.study, console)
        print_selection(runs.study, console)


def csv_report(runs: Runs, reference: Reference) -> str:
    """One line a run, to which nothing is compared."""
    return results_csv(runs)


def html_page(runs: Runs, reference: Reference) -> str:
    """The page, whose templates are loaded where one is made."""
    from graft.reports.page import html_report

    return html_report(runs, reference)


WRITERS: dict[str, Callable[[Runs, Reference], str]] = {
    "csv": csv_report,
    "markdown": markdown_summary,
    "latex": latex_summary,
    "html": html_page,
}


class Trimmed:
    """Makes of each record what tables show of it; equal parts of configurations are then one in memory."""

    def __init__(self) -> None:
        self.groups: dict[bytes, Any] = {}  # by what says all of a plain value, and is made faster than text

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record without what no table of several runs shows."""
        kept = without_unused(record)
        config = record["config"].items()
        kept["config"] = {name: self.groups.setdefault(marshal.dumps(value, 2), value) for name, value in config}
        if "baselines" in record:
            kept["baselines"] = {name: without_unused(baseline) for name, baseline in record["baselines"].items()}
        return kept


def without_unused(values: Mapping[str, Any]) -> dict[str, Any]:
    """A record or baseline without what tables do not show."""
    return {name: value for name, value in values.items() if name not in UNUSED}
