"""Tables from records: in the terminal, as CSV, as Markdown.

Takes folders of runs and sweeps, or folders that hold them: graft report outputs --markdown table.md
"""

from collections.abc import Sequence
from pathlib import Path

from graft.cli.arguments import command_parser, parse
from graft.cli.terminal import terminal
from graft.errors import UserError
from graft.records.files import atomic_write_bytes
from graft.records.record import find_records


def main(arguments: Sequence[str]) -> int:
    """Print the summary of all records in some folders; returns the exit code."""
    parser = command_parser("report")
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folders of runs, or that hold runs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one line for each run")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the summary as a table")
    options = parse(parser, arguments)
    from graft.reports.export import markdown_table, results_csv
    from graft.reports.tables import group_rows
    from graft.reports.terminal import print_summary

    records = find_records([folder.expanduser() for folder in options.folders])
    print_summary(records, terminal())
    if options.csv:
        write(options.csv, results_csv(records))
    if options.markdown:
        rows = group_rows([record for _, record in records])
        if not rows:
            raise UserError(f"{options.markdown}: not written; none of the {len(records)} runs is done")
        write(options.markdown, markdown_table(rows))
    return 0


def write(path: Path, text: str) -> None:
    """Write a file and say so."""
    atomic_write_bytes(path.expanduser(), text.encode())
    print(f"graft: wrote {path}")
