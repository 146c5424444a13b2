"""Running this checkout's `graft` and other programs as a user would."""

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

GRAFT = (sys.executable, "-m", "graft")
HYDRA_ALONE = (sys.executable, str(Path(__file__).with_name("hydra_alone.py")))


def run(command: Sequence[str]) -> float:
    """Seconds from start to exit.

    Raises:
        CalledProcessError: it failed; what it said is in the error.
    """
    started = perf_counter()
    subprocess.run(command, check=True, capture_output=True, text=True)
    return perf_counter() - started


def command(*words: str) -> partial[float]:
    """A command that is ready to be run."""
    return partial(run, words)
