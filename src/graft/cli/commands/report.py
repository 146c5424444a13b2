"""Tables and one HTML page from records, with the comparison of settings on the same seeds.

Takes folders of runs and sweeps, or folders that hold them:

  graft report outputs --html report.html
  graft report outputs --against strategy=linear_probe --markdown table.md
  graft report outputs --across labels_per_class --markdown table.md

Every setting is compared with each run's own baseline, or with the setting that --against names and that differs in
nothing else, run by run on the same seeds and splits: a paired t test, corrected for the number of comparisons (Holm).
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from graft.cli.arguments import command_parser, parse
from graft.errors import listed
from graft.reports.console import make_console

FILES = {
    "csv": "write one line for each run",
    "markdown": "write the summary as tables",
    "latex": "write the summary as a table for the package booktabs",
    "html": "write one page with tables and plots that needs nothing beside it",
}


def main(arguments: Sequence[str]) -> int:
    """Print the report on all records in some folders; returns the exit code."""
    parser = command_parser("report")
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folders of runs, or that hold runs")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="compare with this setting instead of each run's own baseline; may be given for several keys",
    )
    parser.add_argument(
        "--across", metavar="KEY", help="with --markdown: one table, with a column for each value of this key"
    )
    for kind, text in FILES.items():
        parser.add_argument(f"--{kind}", type=Path, metavar="FILE", help=text)
    options = parse(parser, arguments)
    from graft.reports.report import report

    files = {kind: path for kind in FILES if (path := getattr(options, kind)) is not None}
    if options.across and "markdown" not in files:
        parser.error("--across needs --markdown FILE")
    console = make_console()
    report(options.folders, console, files, options.against, options.across)
    for folder in options.folders:
        tell_missing(folder.expanduser(), console)
    return 0


def tell_missing(folder: Path, console: Console) -> None:
    """Say which sweeps have jobs that are in no table, since they have no record."""
    from graft.cli.sweep_file import without_record
    from graft.reports.terminal import print_note

    for sweep, missing, num_jobs in without_record(folder):
        text = f"{len(missing)} of the {num_jobs} jobs of {sweep} have no record ({listed(missing, most=8)})"
        print_note("Missing", f"{text}; graft resume {sweep} runs what is not done", "bold red", console)
