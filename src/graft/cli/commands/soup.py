"""Average the weights of finished runs: uniform and greedy model soups.

Takes folders of runs and sweeps that fine-tuned the same network on the same target from the same weights, such as

  graft -m optimizer.lr=3e-4,1e-3,3e-3
  graft soup outputs/latest

Of a sweep over seeds, which pretrain anew, the runs of each seed make soups of their own. The greedy soup takes runs,
from the best on val on, as long as that does no harm on val (Wortsman et al., ICML 2022). Its folder serves as a run's:
graft report shows it, and backbone.weights=DIR starts from it.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graft.cli.arguments import command_parser, parse
from graft.cli.commands.resume import go_back, started_in
from graft.cli.compose import refuse
from graft.cli.folders import new_folder
from graft.cli.jobs import check, log_to_terminal
from graft.records.hashing import content_hash
from graft.records.record import find_records, write_record
from graft.reports.console import make_console


def main(arguments: Sequence[str]) -> int:
    """Make the soups of the runs in some folders; returns the exit code."""
    parser = command_parser("soup")
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folders of runs, or that hold runs")
    options = parse(parser, arguments)
    from graft.reports.notes import unfinished
    from graft.reports.soups import best_run, pots, print_soups

    console = make_console()
    records = find_records(options.folders)
    for status, text in unfinished(records):
        console.print(f"left out, {status}: {text}", markup=False, soft_wrap=True)
    all_pots = pots(records)
    for pot in all_pots:
        refuse(check(best_run(pot)[1]["config"]))
    log_to_terminal()
    for pot in all_pots:
        folder, soups = cook(pot)
        print_soups(pot, soups, console)
        console.print(str(folder), style="dim", soft_wrap=True)
    return 0


def cook(pot: Sequence[tuple[Path, Any]]) -> tuple[Path, list[dict[str, Any]]]:
    """Make the soups of runs from the same start; returns their folder and their records."""
    from graft.build.assembly import build_experiment
    from graft.reports.soups import best_run, soup_record
    from graft.soup import make_soups
    from graft.threads import paying_threads

    best, record = best_run(pot)
    go_back(started_in(best))
    experiment = build_experiment(record["config"])
    outputs = Path(record["config"]["paths"]["outputs"]).expanduser()
    folder = new_folder(outputs / "soup", content_hash([run["id"] for _, run in pot])[:8])
    try:
        with paying_threads(experiment):
            soups = make_soups(experiment, pot, folder)
    except BaseException:
        shutil.rmtree(folder)
        raise
    records = [soup_record(soup.kind, pot, soup.members, soup.metrics, soup.classes) for soup in soups]
    for soup, found in zip(soups, records, strict=True):
        write_record(folder / soup.kind, found)
    return folder, records
