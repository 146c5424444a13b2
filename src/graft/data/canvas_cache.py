"""Decoded canvases on disk: made once, mapped into memory by every run that comes after, the oldest thrown out."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor

from graft.data.preprocessing import Preprocessing
from graft.data.readers.base import hash_parts
from graft.data.threaded import map_all, num_cores
from graft.errors import UserError
from graft.records.files import (
    LockHeldError,
    announced_lock,
    atomic_write_json,
    file_lock,
    read_json,
    temporary_beside,
)
from graft.records.hashing import content_hash

log = logging.getLogger(__name__)

Shape = tuple[int, int, int, int]
Put = Callable[[int, np.ndarray], None]  # position, canvas uint8 [c, canvas, canvas]
DECODER = 2  # to be raised where `decode` comes to give other canvases for the same files, or their layout changes


@dataclass(frozen=True)
class CanvasFile:
    """Canvases that lie in a file one after the other, in the order [canvas, canvas, c] in which they are decoded."""

    path: Path
    shape: Shape  # n, c, canvas, canvas
    missing: Sequence[int]  # positions of the files that could not be decoded

    @cached_property
    def canvases(self) -> Tensor:
        """uint8 [n, c, canvas, canvas], mapped; they stay readable when the file's name is removed."""
        num, channels, height, width = self.shape
        pixels = torch.from_file(str(self.path), shared=False, size=prod(self.shape), dtype=torch.uint8)
        return pixels.view(num, height, width, channels).permute(0, 3, 1, 2)

    def __reduce__(self) -> tuple[Any, ...]:
        return CanvasFile, (self.path, self.shape, self.missing)  # another process maps the file itself


@dataclass(frozen=True)
class CanvasCache:
    """Entries are `<root>/<key>.u8`, the canvases, with `<root>/<key>.json`, which is written last and read first.

    An entry that does not match the checksum in its JSON is made again. All canvases together stay within the limit:
    the entries that were used least recently go first. A run that has mapped an entry keeps it until it ends.

    Args:
        root: the folder, which is made where it is missing.
        limit: bytes.
    """

    root: Path
    limit: float

    def get_or_fill(self, key: str, shape: Shape, fill: Callable[[Put], Sequence[int]]) -> CanvasFile | None:
        """The canvases under `key`; where there are none, `fill` hands each to the function that it is given.

        Several processes that ask at once do the work once. `fill` returns the positions that it has no canvas for.

        Returns:
            None where the canvases are beyond the limit, or the folder cannot be written.
        """
        if prod(shape) > self.limit:
            log.info("images take more than the cache may hold (%.1f GiB): not cached", prod(shape) / 2**30)
            return None
        try:
            with announced_lock(self._lock_path(key), "waiting for another run that decodes the same images"):
                return self._open(key, shape) or self._make(key, shape, fill)
        except OSError as error:
            log.warning("images are not cached: %s", error)
            return None

    def discard(self, key: str) -> None:
        """Remove an entry."""
        with file_lock(self._lock_path(key)):
            self._remove(key)

    def _open(self, key: str, shape: Shape) -> CanvasFile | None:
        """The entry if it is whole."""
        about, data = self._paths(key)
        if not about.exists():
            return None
        try:
            found = read_json(about)
            file = CanvasFile(data, shape, found["missing"])
            whole = data.stat().st_size == prod(shape) and checksum(file) == found["checksum"]
        except (UserError, OSError, KeyError, TypeError):
            whole = False
        if not whole:
            log.warning("the cached images %s are damaged and are made again", data)
            self._remove(key)
            return None
        os.utime(about)
        return file

    def _make(self, key: str, shape: Shape, fill: Callable[[Put], Sequence[int]]) -> CanvasFile | None:
        about, data = self._paths(key)
        self._remove(key)
        partial = temporary_beside(data)
        if not self._reserve(partial, prod(shape)):
            return None
        try:
            missing, sums = write_canvases(partial, shape, fill)
            os.replace(partial, data)
        finally:
            partial.unlink(missing_ok=True)
        atomic_write_json(about, {"missing": list(missing), "checksum": sums})
        return CanvasFile(data, shape, missing)

    def _reserve(self, partial: Path, size: int) -> bool:
        """Make room, and take it with an empty file of the size; False where others that are at work leave none."""
        with file_lock(self.root / "room.lock"):
            for key in self._by_age():
                if self._used() + size <= self.limit:
                    break
                self._evict(key)
            if self._used() + size > self.limit:
                log.info("images are not cached: other runs are filling the cache")
                return False
            with partial.open("xb") as file:
                file.truncate(size)
        return True

    def _by_age(self) -> list[str]:
        """Keys of all entries, whole or not, the least recently used first."""
        newest: dict[str, float] = {}
        for path in self._files():
            key = path.name.lstrip(".").partition(".")[0]
            newest[key] = max(newest.get(key, 0.0), path.stat().st_mtime)
        return sorted(newest, key=newest.__getitem__)

    def _used(self) -> int:
        return sum(path.stat().st_size for path in self._files())

    def _files(self) -> list[Path]:
        return [path for path in self.root.iterdir() if path.suffix != ".lock"]

    def _evict(self, key: str) -> None:
        try:
            with file_lock(self._lock_path(key), wait=False):
                self._remove(key)
        except LockHeldError:
            pass  # a run is opening or making it

    def _remove(self, key: str) -> None:
        """Remove an entry with what a run that died left of it; the lock must be held."""
        about, data = self._paths(key)
        for path in (about, data, *self.root.glob(f".{key}.*")):
            path.unlink(missing_ok=True)

    def _lock_path(self, key: str) -> Path:
        return self.root / f"{key}.lock"

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.root / f"{key}.json", self.root / f"{key}.u8"


def canvas_key(content: str, preprocessing: Preprocessing) -> str:
    """The hash of all that decides canvases: the files' content, what is made of it, and the decoder."""
    return content_hash(
        {
            "content": content,
            "channels": preprocessing.channels,
            "canvas": preprocessing.canvas,
            "interpolation": preprocessing.interpolation,
            "decoder": [DECODER, PIL.__version__, torchvision.__version__],
        }
    )


def write_canvases(path: Path, shape: Shape, fill: Callable[[Put], Sequence[int]]) -> tuple[Sequence[int], str]:
    """Have `fill` write every canvas to its place in an existing file of zeros.

    The file is not synced: what a crash of the system loses of it does not match the checksum, and is made again.

    Returns:
        What is missing, and the checksum of the whole.
    """
    size = prod(shape[1:])
    sums = np.full(shape[0], crc32(bytes(size)))

    def put(position: int, canvas: np.ndarray) -> None:
        data = np.ascontiguousarray(canvas.transpose(1, 2, 0)).data.cast("B")
        write_all(file.fileno(), data, position * size)
        sums[position] = crc32(data)

    with path.open("r+b") as file:
        missing = fill(put)
    return missing, hash_parts(sums)


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write at an offset; the system may take less than it is given."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def checksum(file: CanvasFile) -> str:
    """Hash of the CRCs of all canvases, computed on all cores."""
    pixels = file.canvases.permute(0, 2, 3, 1).numpy()
    return hash_parts(np.array(map_all(lambda row: crc32(pixels[row]), range(len(pixels)), num_cores())))
