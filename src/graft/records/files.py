"""Files that are whole at every moment, and locks that their holder's death releases."""

import fcntl
import json
import logging
import math
import os
import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from graft.errors import UserError, storage_error

log = logging.getLogger(__name__)

CHECKSUM = "checksum"
SEAL = f',\n  "{CHECKSUM}": "'


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds the old content or all of the new, whatever happens meanwhile."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to be written that takes the place of `path` when the block ends well, and vanishes when it does not.

    A power cut right afterwards may bring the old content back; `sync_folder` makes sure that it does not.

    Raises:
        OSError: it cannot be written, with the name of the file, whatever the writer made of that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        found = storage_error(error)
        if found is not None:
            raise OSError(found.errno, found.strerror, str(path)) from error
        raise


def temporary_beside(path: Path) -> Path:
    """A hidden name in the same folder that nobody else uses."""
    return path.with_name(f".{path.name}.{uuid4().hex}")


def remove_left_over(folder: Path) -> None:
    """Remove what writers that died left below a folder, which this process must have to itself."""
    for path in folder.rglob(".*"):
        if re.fullmatch(r"\..+\.[0-9a-f]{32}", path.name):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write_json(path: Path, value: Any) -> None:
    """Write plain values as indented JSON; a number that is not finite becomes null, since JSON has none."""
    atomic_write_bytes(path, (json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n").encode())


def without_nan(value: Any) -> Any:
    """The same plain values with None in place of NaN and infinities.

    >>> without_nan({"loss": [0.5, float("nan")]})
    {'loss': [0.5, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def atomic_write_sealed_json(path: Path, value: dict[str, Any]) -> None:
    """As `atomic_write_json`, a line for each key, with a checksum of the text as the last.

    Indented lists make the text longer, which takes as much longer to write and to read.
    """
    lines = [f"  {json.dumps(key)}: {json.dumps(item, allow_nan=False)}" for key, item in without_nan(value).items()]
    text = "{\n" + ",\n".join(lines)
    atomic_write_bytes(path, f'{text}{SEAL}{_checksum(text)}"\n}}\n'.encode())


def read_sealed_json(path: Path) -> dict[str, Any]:
    """What `atomic_write_sealed_json` wrote.

    Raises:
        UserError: the file is missing, unreadable or damaged, or not what was written.
    """
    text = _read_text(path)
    value = _parsed(text, path)
    if not isinstance(value, dict) or CHECKSUM not in value:
        raise UserError(f"{path}: has no checksum, so graft did not write it, or it is damaged")
    if value.pop(CHECKSUM) != _checksum(text.partition(SEAL)[0]):
        raise UserError(f"{path}: is damaged, or was changed after it was written: its checksum does not match")
    return value


def skim_sealed_json(path: Path, without: Collection[str]) -> dict[str, Any]:
    """The same without the values of some keys, for thousands of files that have values in common.

    Equal values of several files may be one object, which is not to be changed.

    Raises:
        UserError: as `read_sealed_json`.
    """
    text, _, checksum = _read_text(path).partition(SEAL)
    lines = [line.partition(": ") for line in text.removeprefix("{\n").split(",\n")]
    as_written = checksum.partition('"')[0] == _checksum(text) and all(line.startswith('  "') for line, _, _ in lines)
    if not as_written:
        return read_sealed_json(path)
    values = ((_skimmed(key), value) for key, _, value in lines)
    return {key: _skimmed(value) for key, value in values if key not in without}


@lru_cache(maxsize=2**10)
def _skimmed(text: str) -> Any:
    return json.loads(text)


def _checksum(text: str) -> str:
    """That of a file which begins with `text` and ends with its checksum."""
    return sha256(f"{text}\n}}".encode()).hexdigest()


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: the file is missing, unreadable or damaged.
    """
    return _parsed(_read_text(path), path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise UserError(f"{path}: cannot be read ({reason})") from error


def _parsed(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read (not valid JSON)") from error


class LockHeldError(Exception):
    """Another process holds the lock."""


_held: set[int] = set()  # descriptors of the locks that this process holds


def _let_go_in_child() -> None:
    # A forked child (a data loader's worker) shares its parent's descriptors, and would hold the lock after its death.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def file_lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `path`, which stays as an empty file; the system releases it when the holder dies.

    Raises:
        LockHeldError: another process holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise LockHeldError(str(path)) from error
        yield
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for a child that was forked a moment ago
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on `path`; looking takes a moment in which others find it held."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def announced_lock(path: Path, announcement: str) -> Iterator[None]:
    """Hold the lock on `path`; says `announcement` where that means waiting for another process."""
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path, wait=False))
        except LockHeldError:
            log.info("%s", announcement)
            stack.enter_context(file_lock(path))
        yield
