"""The state of a sweep's job, and a word to all of them that they shall stop.

Both go by what lies in the sweep's folder, so that they hold for every launcher, also on another machine.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from graft.cli.folders import LOCK
from graft.errors import UserError
from graft.preemption import PreemptedError, deferred
from graft.records.files import is_locked
from graft.records.record import load_record

QUEUED, RUNNING, DONE, FAILED, MISSING = STATES = ("queued", "running", "done", "failed", "missing")
STOP = "stop"
INTERRUPTED, PREEMPTED = "interrupted", "preempted"  # by Ctrl-C, by SIGTERM
UNWRITABLE = "unwritable"  # there is no room, or no permission, for what a job writes


def state_of(job: Path) -> str:
    """One of `STATES` for the folder of a job.

    It is queued until it holds its lock, running while it does, done or failed as its record says, and missing where
    its process is gone and no record that can be read says how it ended.
    """
    with suppress(UserError):  # there is none, or it is damaged
        status = load_record(job)["status"]
        if status in (DONE, FAILED):
            return str(status)
        if status == "pruned":  # by its search, which has what it wanted of it
            return DONE
    if not (job / LOCK).exists():
        return QUEUED
    return RUNNING if is_locked(job / LOCK) else MISSING


def ask_to_stop(sweep: Path, reason: str) -> None:
    """Keep jobs from beginning; those that run end with their epoch for `INTERRUPTED`, their step for `PREEMPTED`."""
    (sweep / STOP).write_text(reason, encoding="utf-8")


def asked_to_stop(sweep: Path) -> str | None:
    """Why no further jobs shall begin, None where they shall."""
    try:
        return (sweep / STOP).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def forget_stop(sweep: Path) -> None:
    """Let jobs begin again."""
    (sweep / STOP).unlink(missing_ok=True)


def interrupted(sweep: Path) -> bool:
    """Whether the jobs that run shall end with their epoch, or before."""
    return asked_to_stop(sweep) in (INTERRUPTED, PREEMPTED)


def preempted(sweep: Path) -> bool:
    """Whether the jobs that run shall end with their step."""
    return asked_to_stop(sweep) == PREEMPTED


def unwritable(sweep: Path) -> bool:
    """Whether a job could not write."""
    return asked_to_stop(sweep) == UNWRITABLE


@contextmanager
def stoppable(sweep: Path) -> Iterator[None]:
    """Launch jobs meanwhile: the first Ctrl-C lets those that run finish their epoch, the second ends all at once.

    SIGTERM lets them finish their step.

    Raises:
        KeyboardInterrupt: at the end, if there was a Ctrl-C.
        PreemptedError: ... a SIGTERM.
    """
    forget_stop(sweep)

    def stop(number: int, frame: FrameType | None) -> Any:
        if interrupted(sweep):
            raise KeyboardInterrupt
        ask_to_stop(sweep, INTERRUPTED)
        print("graft: stops when the epoch is over and saved; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, stop)
    _launching.append(os.getpid())
    try:
        with deferred(partial(ask_to_stop, sweep, PREEMPTED)):
            yield
        if interrupted(sweep):
            raise KeyboardInterrupt
    except Exception as error:
        if interrupted(sweep):  # a launcher may miss the processes that the same signal ended
            raise (PreemptedError if preempted(sweep) else KeyboardInterrupt) from error
        raise
    finally:
        _launching.pop()
        signal.signal(signal.SIGINT, before)


def launched_elsewhere() -> bool:
    """Whether this process runs jobs for another one that launches them, and that hears Ctrl-C for all."""
    return os.getpid() not in _launching


_launching: list[int] = []  # this process's id while it launches jobs
