"""Measures what graft costs beside its peers and prints one table; `scripts/benchmark` runs it."""

import argparse
import gc
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import adaptation
import commands
import frozen
import heads
import inputs
import mobilenet
import precision
import probe
import steps
import sweep
from harness import QUICK_REPEATS, Measured, Row, measure
from table import describe_setting, markdown, print_table

from graft.reports.console import make_console

ROWS: tuple[Row, ...] = (
    *steps.ROWS,
    mobilenet.ROW,
    *inputs.ROWS,
    probe.ROW,
    frozen.ROW,
    *heads.ROWS,
    adaptation.ROW,
    precision.ROW,
    *sweep.ROWS,
    commands.ROW,
)
REPEATS = 7


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the rows asked for."""
    options = parser().parse_args(arguments)
    if options.list:
        for row in ROWS:
            print(f"{row.name:<12} {row.what}")
        return 0
    quieten()
    gc.freeze()  # as in a run of graft: no side is held up by collections that look through what was imported
    setting = describe_setting(QUICK_REPEATS if options.quick else REPEATS)
    measured = [measure_row(row, options.quick) for row in ROWS if not options.only or row.name in options.only]
    console = make_console()
    console.width = max(console.width, 160)
    print_table(measured, setting, console)
    if options.markdown:
        options.markdown.write_text(markdown(measured, setting))
    return 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    result.add_argument("--quick", action="store_true", help="smaller data, at most 5 repetitions: less than 5 minutes")
    result.add_argument("--only", type=names, default=(), metavar="ROW,...", help="these rows alone")
    result.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown too")
    result.add_argument("--list", action="store_true", help="name the rows and measure nothing")
    return result


def names(text: str) -> tuple[str, ...]:
    """Names of rows."""
    chosen, known = tuple(text.split(",")), [row.name for row in ROWS]
    for name in chosen:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no row {name!r}; expected some of {', '.join(known)}")
    return chosen


def measure_row(row: Row, quick: bool) -> Measured:
    """Measure one row in a folder that is gone afterwards, and say how long it took."""
    print(f"{row.name} ...", end=" ", file=sys.stderr, flush=True)
    started = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(row, quick, row.quick_repeats if quick else REPEATS, Path(folder))
    print(f"{perf_counter() - started:.0f} s", file=sys.stderr)
    return measured


def quieten() -> None:
    """Peers warn and inform about what is meant here."""
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
