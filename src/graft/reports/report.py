"""The report on whatever runs lie in some folders."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from graft.errors import UserError, did_you_mean
from graft.records.record import find_records
from graft.reports.export import markdown, results_csv
from graft.reports.settings import Record
from graft.reports.terminal import print_run, print_summary

Records = Sequence[tuple[Path, Record]]


def report(folders: Sequence[Path], layout: str, console: Console) -> None:
    """Print the report on every run at or below `folders`.

    Args:
        folders: runs, sweeps, or folders of them.
        layout: a key of `LAYOUTS`: `terminal`, `csv` (one line a run) or `markdown`.
        console: where it is printed.

    Raises:
        UserError: an unknown layout, a folder that does not exist, or one in which no record can be read.
    """
    if layout not in LAYOUTS:
        raise UserError(f"no report as {layout!r}; {did_you_mean(layout, LAYOUTS)}")
    LAYOUTS[layout](find_records(folders), console)


def print_terminal(records: Records, console: Console) -> None:
    """The final table of a run that stands alone, the summary of several."""
    folder, record = records[0]
    if len(records) == 1 and record["status"] == "done":
        print_run(record, folder, console)
    else:
        print_summary(records, console)


LAYOUTS: dict[str, Callable[[Records, Console], None]] = {
    "terminal": print_terminal,
    "csv": lambda records, console: console.out(results_csv(records), end="", highlight=False),
    "markdown": lambda records, console: console.out(markdown(records), end="", highlight=False),
}
