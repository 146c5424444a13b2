"""SIGTERM, by which a scheduler takes a machine back: the run saves itself at its next step, ends, and can go on later.

Where there is nothing to save it ends at once. Whatever it is at, it ends within `GRACE` seconds: what is on disk is
whole at every moment, and resuming does again what was not saved.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Timer, current_thread, main_thread
from types import FrameType

EXIT_CODE = 75  # EX_TEMPFAIL of BSD's sysexits: nothing is wrong, come back later
GRACE = 20.0  # seconds; Slurm and Kubernetes kill after 30
LOOK_EVERY = 1.0  # seconds


class PreemptedError(KeyboardInterrupt):
    """The process was asked to end; like a Ctrl-C it leaves the run as it is, to be gone on with."""


@dataclass
class _State:
    listening: bool = False
    asked: bool = False  # since when nothing but ending matters
    deferred: bool = False  # whoever is at work asks for itself
    on_hearing: Callable[[], None] | None = None
    elsewhere: Callable[[], bool] | None = None  # whether another process was asked for this one too
    looked_at: float = 0.0
    timer: Timer | None = None


_state = _State()


@contextmanager
def listening() -> Iterator[None]:
    """Hear SIGTERM within the block; nothing changes outside of the main thread, which alone hears signals.

    Raises:
        PreemptedError: there was one.
    """
    if _state.listening or current_thread() is not main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    _state.listening = True
    listen_again()
    try:
        yield
    finally:
        if _state.timer is not None:
            _state.timer.cancel()
        vars(_state).update(vars(_State()))
        signal.signal(signal.SIGTERM, before)


def listen_again() -> None:
    """Hear SIGTERM alone, where a trainer has begun to hear it too: it would end without saving."""
    if _state.listening and current_thread() is main_thread():
        signal.signal(signal.SIGTERM, _hear)


@contextmanager
def deferred(on_hearing: Callable[[], None] | None = None) -> Iterator[None]:
    """Let whoever is at work within the block find a good moment to end: it has to look at `asked`.

    Args:
        on_hearing: called when there is a SIGTERM; None for no more than `asked`.

    Raises:
        PreemptedError: at the end of the block, where nobody ended within it.
    """
    with _handled(deferred=True, on_hearing=on_hearing):
        yield
    if _state.asked and not _state.deferred:
        raise PreemptedError


@contextmanager
def prompt() -> Iterator[None]:
    """Within a block that is `deferred`, one that is not."""
    with _handled(deferred=False, on_hearing=_state.on_hearing):
        yield


@contextmanager
def _handled(deferred: bool, on_hearing: Callable[[], None] | None) -> Iterator[None]:
    before = _state.deferred, _state.on_hearing
    _state.deferred, _state.on_hearing = deferred, on_hearing
    try:
        yield
    finally:
        _state.deferred, _state.on_hearing = before


@contextmanager
def also_asked(elsewhere: Callable[[], bool]) -> Iterator[None]:
    """Within the block, `asked` also asks `elsewhere`, once a second."""
    before, _state.elsewhere = _state.elsewhere, elsewhere
    try:
        yield
    finally:
        _state.elsewhere = before


def asked() -> bool:
    """Whether this process shall end."""
    if not _state.asked and _state.elsewhere is not None:
        now = time.monotonic()
        if now >= _state.looked_at + LOOK_EVERY:
            _state.looked_at = now
            _state.asked = _state.elsewhere()
    return _state.asked


def _hear(number: int, frame: FrameType | None) -> None:
    if _state.asked:  # some schedulers ask more than once
        return
    _state.asked = True
    _state.timer = Timer(GRACE, _end_at_once)
    _state.timer.daemon = True
    _state.timer.start()
    if _state.on_hearing is not None:
        _state.on_hearing()
    if not _state.deferred:
        raise PreemptedError


def _end_at_once() -> None:
    print(f"graft: ends at once, {GRACE:.0f} s after SIGTERM", file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)


def _forget_in_child() -> None:
    # A forked child, such as a data loader's worker, is ended by its parent with this very signal.
    if _state.listening:
        vars(_state).update(vars(_State()))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget_in_child)
