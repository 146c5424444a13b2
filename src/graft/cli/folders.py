"""Where runs and sweeps write: new folders that nobody else has, interrupted ones found again, `outputs/latest`."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from graft.errors import UserError
from graft.records.files import LockHeldError, file_lock, read_json
from graft.records.record import RECORD

LOCK = "run.lock"
SWEEP, RANKING = "sweep.json", "ranking.json"


@contextmanager
def claimed(parent: Path, identity: str, suffix: str, is_interrupted: Callable[[Path], bool]) -> Iterator[Path]:
    """A folder `<parent>/<time>-<identity><suffix>` under lock: an interrupted one to go on with, or a new one."""
    with ExitStack() as stack:
        for folder in sorted(parent.glob(f"*-{identity}*{suffix}")):
            if is_interrupted(folder) and stack.enter_context(locked(folder)) and is_interrupted(folder):
                yield folder
                return
        folder = new_folder(parent, identity, suffix)
        stack.enter_context(locked(folder))
        yield folder


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock for as long as its run goes on; False where another process holds it."""
    with ExitStack() as stack:
        yield _took(stack, folder / LOCK) or _took(stack, folder / LOCK, after=0.05)


def _took(stack: ExitStack, lock: Path, after: float = 0.0) -> bool:
    """Whether the lock was free; a second look, seconds later, tells its holder from `is_locked` passing by."""
    time.sleep(after)
    try:
        stack.enter_context(file_lock(lock, wait=False))
    except LockHeldError:
        return False
    return True


def new_folder(parent: Path, identity: str, suffix: str = "") -> Path:
    """Create a folder named after the time and `identity`; a number sets apart those of one second."""
    parent.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{identity}"
    number = 1
    while True:
        folder = parent / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            continue
        return folder


def is_interrupted_run(folder: Path) -> bool:
    """Whether the record of a run says that it has not ended."""
    return status_of(folder / RECORD) == "running"


def is_interrupted_sweep(folder: Path) -> bool:
    """Whether a sweep has jobs left."""
    return status_of(folder / SWEEP) == "running"


def is_interrupted_ranking(folder: Path) -> bool:
    """Whether a ranking says that it has not ended."""
    return status_of(folder / RANKING) == "running"


def status_of(path: Path) -> Any:
    """What a record, or the description of a sweep or ranking, says of its status; None where it cannot be read."""
    try:
        value = read_json(path)
    except UserError:
        return None
    return value.get("status") if isinstance(value, dict) else None


def point_latest(outputs: Path, folder: Path | None) -> Path | None:
    """Let `outputs/latest` link to `folder` (to nothing for None); returns what it linked to before."""
    link = outputs / "latest"
    before = link.resolve() if link.is_symlink() and link.exists() else None
    if folder is None:
        link.unlink(missing_ok=True)
    elif link.is_symlink() or not link.exists():
        temporary = outputs / f".latest.{uuid4().hex}"
        temporary.symlink_to(os.path.relpath(folder, outputs), target_is_directory=True)
        os.replace(temporary, link)
    return before
