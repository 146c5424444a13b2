"""Tables from records: in the terminal, as CSV, as Markdown.

Takes folders of runs and sweeps, or folders that hold them: graft report outputs --markdown table.md
"""

from collections.abc import Sequence
from pathlib import Path

from graft.cli.arguments import command_parser, parse
from graft.reports.console import make_console


def main(arguments: Sequence[str]) -> int:
    """Print the report on all records in some folders; returns the exit code."""
    parser = command_parser("report")
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folders of runs, or that hold runs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one line for each run")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the summary as a table")
    options = parse(parser, arguments)
    from graft.reports.report import report

    report(options.folders, make_console(), csv=options.csv, markdown=options.markdown)
    return 0
