"""The report on whatever runs lie in some folders."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from graft.records.files import atomic_write_bytes
from graft.records.record import find_records
from graft.reports.export import markdown_summary, results_csv
from graft.reports.selection import print_selection
from graft.reports.settings import Record
from graft.reports.terminal import print_run, print_summary
from graft.reports.transferred import print_transferred


def report(folders: Sequence[Path], console: Console, csv: Path | None = None, markdown: Path | None = None) -> None:
    """Print the report on every run at or below `folders`, and write it to files where these are named.

    Args:
        folders: runs, sweeps, or folders of them.
        console: where it is printed: the final table of a run that stands alone, the summary of several.
        csv: file for one line a run.
        markdown: file for the summary as Markdown.

    Raises:
        UserError: a folder that does not exist, or one in which no record can be read.
    """
    records = find_records(folders)
    show(records, console)
    for path, text in ((csv, results_csv), (markdown, markdown_summary)):
        if path is not None:
            atomic_write_bytes(path.expanduser(), text(records).encode())
            console.print(f"wrote {path}", markup=False, soft_wrap=True)


def show(records: Sequence[tuple[Path, Record]], console: Console) -> None:
    """Print the final table of a run that stands alone, else the summary and what was transferred."""
    folder, record = records[0]
    if len(records) == 1 and record["status"] == "done":
        print_run(record, folder, console)
    else:
        print_summary(records, console)
        print_transferred([record for _, record in records], console)
        print_selection([record for _, record in records], console)
