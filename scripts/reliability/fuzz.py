"""Tries damaged files and odd override lists, and prints what became of how many; `scripts/fuzz` runs it."""

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fuzz_config import fuzz_config
from fuzz_readers import NOTICED, READ, fuzz_readers


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what is asked for; returns 0 where all ended as it should."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("subject", choices=("readers", "config"), help="damaged files, or override lists")
    parser.add_argument("--num", type=int, default=10_000, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="others than those of seed 0")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    if options.subject == "config":
        print(f"override lists: {in_words(fuzz_config(options.num, options.seed))}")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    outcomes = fuzz_readers(options.num, folder, options.seed)
    for name, found in outcomes.items():
        print(f"{name}: {in_words(found)}")
    return int(any(found.keys() - {READ, NOTICED} for found in outcomes.values()))


def in_words(outcomes: Counter[str]) -> str:
    """All of them and each outcome.

    >>> in_words(Counter(refused=1200, read=34))
    '1,234 tried: 1,200 refused, 34 read'
    """
    return f"{outcomes.total():,} tried: " + ", ".join(f"{count:,} {what}" for what, count in outcomes.most_common())


if __name__ == "__main__":
    sys.exit(main())
