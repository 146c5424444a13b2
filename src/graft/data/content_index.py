"""What the files of a data set hashed to when they were last read, so that a million need not be read at each start."""

import logging
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import numpy as np

from graft.data.threaded import map_all, num_cores
from graft.data.versions import state_of
from graft.records.files import atomic_write_bytes

log = logging.getLogger(__name__)

HASH_SIZE = 20  # bytes
STEP = 50_000  # files between two lines of the log
SETTLED = 2 * 10**9  # nanoseconds after which a change can no longer hide behind a clock that ticks too slowly


@dataclass(frozen=True)
class Known:
    """Files with the state that they had when they were hashed."""

    names: list[str]
    states: np.ndarray  # int64 [n, 4], as `state_of`
    hashes: np.ndarray  # uint8 [n, HASH_SIZE]


@dataclass(frozen=True)
class ContentIndex:
    """A file that holds the hashes of others, each used for as long as that file's inode, size and times are the same.

    It is a saving and no more: where it is missing or damaged, or cannot be written, files are read.
    """

    path: Path

    def hashes(self, names: Sequence[str]) -> np.ndarray:
        """The blake2b hashes of the content of files: uint8 [n, 20].

        Raises:
            OSError: a file cannot be read.
        """
        begun = time.time_ns()
        states = np.array([state_of(name) for name in names], dtype=np.int64).reshape(-1, 4)
        hashes = np.zeros((len(names), HASH_SIZE), dtype=np.uint8)
        fresh = reuse(self._read(), names, states, hashes)
        missing = np.flatnonzero(~fresh)
        if len(missing):
            hashes[missing] = hash_files([names[position] for position in missing.tolist()])
            settled = states[:, 2:].max(axis=1) < begun - SETTLED
            kept = np.flatnonzero(settled)
            self._write(Known([names[position] for position in kept.tolist()], states[kept], hashes[kept]))
        return hashes

    def _read(self) -> Known | None:
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                names, states, hashes = arrays["names"], arrays["states"], arrays["hashes"]
            listed = names.tobytes().decode("utf-8", "surrogateescape").split("\0") if len(names) else []
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        if states.shape != (len(listed), 4) or hashes.shape != (len(listed), HASH_SIZE):
            return None
        return Known(listed, states, hashes)

    def _write(self, known: Known) -> None:
        buffer = BytesIO()
        names = np.frombuffer("\0".join(known.names).encode("utf-8", "surrogateescape"), dtype=np.uint8)
        np.savez(buffer, names=names, states=known.states, hashes=known.hashes)
        try:
            atomic_write_bytes(self.path, buffer.getvalue())
        except OSError as error:
            log.warning("%s cannot be written (%s); all files are read again next time", self.path, error.strerror)


def reuse(known: Known | None, names: Sequence[str], states: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Fill in the hashes [n, 20] of files that have not changed; returns which these are: bool [n]."""
    fresh = np.zeros(len(names), dtype=bool)
    if known is None:
        return fresh
    if known.names == names:
        rows, found = np.arange(len(names)), np.arange(len(names))
    else:
        place = {name: position for position, name in enumerate(known.names)}
        pairs = [(row, place[name]) for row, name in enumerate(names) if name in place]
        rows, found = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    same = (states[rows] == known.states[found]).all(axis=1)
    rows, found = rows[same], found[same]
    fresh[rows], hashes[rows] = True, known.hashes[found]
    return fresh


def hash_files(names: Sequence[str]) -> np.ndarray:
    """The blake2b hashes of the content of files: uint8 [n, 20]; says how far it is where there are many."""
    hashes = np.empty((len(names), HASH_SIZE), dtype=np.uint8)
    for start in range(0, len(names), STEP):
        if start:
            log.info("hashed %s of %s files", f"{start:,}", f"{len(names):,}")
        part = map_all(hash_file, names[start : start + STEP], num_cores())
        hashes[start : start + len(part)] = [np.frombuffer(digest, dtype=np.uint8) for digest in part]
    return hashes


def hash_file(name: str) -> bytes:
    """The blake2b hash of a file's content."""
    with open(name, "rb") as file:
        digest = blake2b(digest_size=HASH_SIZE)
        for block in iter(partial(file.read, 2**20), b""):
            digest.update(block)
    return digest.digest()
