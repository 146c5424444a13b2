"""When Python looks for reference cycles: seldom through what has been imported, which is most objects and stays."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

TIDY_EVERY = 1.0  # seconds
WHILE_IMPORTING = (100_000, 50, 1_000)  # thresholds of the three generations


def put_off_collections() -> None:
    """Collect seldom until a run begins: importing makes many objects, hardly any of which are garbage."""
    gc.set_threshold(*WHILE_IMPORTING)


@contextmanager
def imports_aside() -> Iterator[None]:
    """The time of a run: collections are as frequent as ever, and leave alone what was there before it."""
    set_imports_aside()
    try:
        yield
    finally:
        untidied()


def set_imports_aside() -> None:
    """Before a run, or the first job of a process and sweep: no collection looks through what has been imported."""
    if not _tidied:
        import graft.pipeline  # noqa: F401

        gc.freeze()
        gc.set_threshold(*USUAL)
        _tidied["at"] = time.monotonic()


def tidy() -> None:
    """Free the networks of jobs that are over, which hang in reference cycles; a long sweep must not pile them up.

    Short jobs are tidied up after together.
    """
    if time.monotonic() < _tidied["at"] + TIDY_EVERY:
        return
    gc.collect()
    _tidied["at"] = time.monotonic()


def untidied() -> None:
    """A run or sweep is over: collections look through everything again."""
    gc.unfreeze()
    _tidied.clear()


USUAL = gc.get_threshold()
_tidied: dict[str, float] = {}  # when it was done last, in this process and sweep; empty between them
