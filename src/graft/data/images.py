"""Images on their canvas: kept in memory, mapped from the cache, or brought to it each time they are asked for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from graft.data.batchwise import gather
from graft.data.canvas_cache import CanvasCache, CanvasFile, canvas_key
from graft.data.decoding import centre, check_all, decode, decode_all, resized_shape
from graft.data.files import Files
from graft.data.lazy import take
from graft.data.preprocessing import Preprocessing
from graft.data.readers.base import RawSplit, Unreadable, file_names
from graft.errors import UserError

CHUNK = 1024  # images resized at once


class Images(Protocol):
    """Samples of one size by position: canvases, or what other kinds of sample are stored as."""

    @property
    def made_anew(self) -> bool:
        """Whether each is decoded or computed whenever it is asked for, which is work for processes that load."""

    def __len__(self) -> int: ...

    def canvases(self, positions: Tensor) -> Tensor:
        """The samples [n, ...] at positions [n]: of images uint8 [n, c, canvas, canvas]."""


@dataclass(frozen=True)
class KeptImages:
    """Canvases in memory, or samples [n, ...] of another kind."""

    made_anew: ClassVar[bool] = False

    tensor: Tensor  # uint8 [n, c, canvas, canvas]

    def __len__(self) -> int:
        return len(self.tensor)

    def canvases(self, positions: Tensor) -> Tensor:
        """uint8 [n, c, canvas, canvas] of positions [n]."""
        return take(self.tensor, positions)


@dataclass(frozen=True)
class MappedImages:
    """Canvases in the cache, of which the system keeps in memory what it has room for."""

    made_anew: ClassVar[bool] = False

    file: CanvasFile
    rows: Tensor  # int64 [n], those of the file's canvases that could be decoded

    def __len__(self) -> int:
        return len(self.rows)

    def canvases(self, positions: Tensor) -> Tensor:
        """uint8 [n, c, canvas, canvas] of positions [n]."""
        return take(self.file.canvases, self.rows[positions])


@dataclass(frozen=True)
class ResizedImages:
    """Arrays in memory that are too large to keep on their canvas."""

    made_anew: ClassVar[bool] = True

    images: np.ndarray  # uint8 [n, h, w] or [n, h, w, c]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def canvases(self, positions: Tensor) -> Tensor:
        """uint8 [n, c, canvas, canvas] of positions [n]."""
        return resize(self.images[positions.numpy()], self.preprocessing).expand(
            -1, self.preprocessing.channels, -1, -1
        )


@dataclass(frozen=True)
class ImageFiles:
    """Image files too many to keep, where there is no cache."""

    made_anew: ClassVar[bool] = True

    paths: Sequence[Path]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def canvases(self, positions: Tensor) -> Tensor:
        """uint8 [n, c, canvas, canvas] of positions [n].

        Raises:
            UserError: a file that could be read when the domain was loaded cannot be read any more.
        """
        return stacked(decode(self.paths[position], self.preprocessing) for position in positions.tolist())


def stacked(rows: Iterable[np.ndarray | Unreadable]) -> Tensor:
    """Samples [n, ...] of files that could be read before.

    Raises:
        UserError: one cannot be read any more.
    """
    rows = list(rows)
    broken = [str(row) for row in rows if isinstance(row, Unreadable)]
    if broken:
        raise UserError(f"cannot be read any more: {', '.join(broken)}")
    return torch.from_numpy(np.stack([row for row in rows if isinstance(row, np.ndarray)]))


@dataclass(frozen=True)
class JoinedImages:
    """Those of several data sets on canvases of one size, one set after the other."""

    parts: tuple[Images, ...]

    @property
    def made_anew(self) -> bool:
        """Whether those of any part are."""
        return any(part.made_anew for part in self.parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def domains(self, positions: Tensor) -> Tensor:
        """Which of the parts each of positions [n] lies in: int64 [n]."""
        ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)
        return torch.bucketize(positions, ends, right=True)

    def canvases(self, positions: Tensor) -> Tensor:
        """uint8 [n, c, canvas, canvas] of positions [n]."""
        domains, pieces, start = self.domains(positions), [], 0
        for index, part in enumerate(self.parts):
            if len(own := positions[domains == index]):
                pieces.append(part.canvases(own - start))
            start += len(part)
        return gather(torch.cat(pieces), domains.argsort(stable=True).argsort())


def open_images(
    split: RawSplit, preprocessing: Preprocessing, keep: bool, cache: CanvasCache | None = None, content: str = ""
) -> tuple[Images, list[Unreadable]]:
    """The images of a split on their canvas, and those that cannot be decoded, which are left out of it.

    Args:
        split: arrays or files.
        preprocessing: says what the canvas is.
        keep: whether to keep all canvases in memory.
        cache: where the canvases of files are looked for, and left for later; None decodes them for this run alone.
        content: hash of the files' content.
    """
    if isinstance(split.samples, np.ndarray):
        if keep:
            return KeptImages(resize_all(split.samples, preprocessing)), []
        return ResizedImages(split.samples, preprocessing), []
    paths = Files(file_names(split.samples))
    cached = _open_cached(paths, preprocessing, cache, content) if cache else None
    if cached:
        images, broken = cached
        return (KeptImages(gather(images.file.canvases, images.rows)) if keep else images), broken
    if keep:
        return _decode_into_memory(paths, preprocessing)
    broken = check_all(paths)
    return ImageFiles(paths.without(found.path for found in broken), preprocessing), broken


def _open_cached(
    paths: Sequence[Path], preprocessing: Preprocessing, cache: CanvasCache, content: str
) -> tuple[MappedImages, list[Unreadable]] | None:
    """Canvases in the cache, brought there if need be; None where that cannot be done."""
    key = canvas_key(content, preprocessing)
    shape = (len(paths), preprocessing.channels, preprocessing.canvas, preprocessing.canvas)
    file = cache.get_or_fill(key, shape, lambda put: sorted(decode_all(paths, preprocessing, put)))
    if file is None:
        return None
    broken = [decode(paths[position], preprocessing) for position in file.missing]
    unreadable = [found for found in broken if isinstance(found, Unreadable)]
    if len(unreadable) < len(broken):  # what kept a file from being read has passed, and the cache is behind
        cache.discard(key)
        return None
    rows = np.delete(np.arange(len(paths)), file.missing)
    return MappedImages(file, torch.from_numpy(rows)), unreadable


def _decode_into_memory(paths: Sequence[Path], preprocessing: Preprocessing) -> tuple[KeptImages, list[Unreadable]]:
    side = preprocessing.canvas
    canvases = np.empty((len(paths), side, side, preprocessing.channels), dtype=np.uint8).transpose(0, 3, 1, 2)
    broken = decode_all(paths, preprocessing, canvases.__setitem__)
    kept = torch.from_numpy(canvases)
    if broken:
        kept = gather(kept, torch.from_numpy(np.delete(np.arange(len(paths)), list(broken))))
    return KeptImages(kept), list(broken.values())


def resize_all(images: np.ndarray, preprocessing: Preprocessing) -> Tensor:
    """Arrays uint8 [n, h, w] or [n, h, w, c] as canvases uint8 [n, c, canvas, canvas].

    Grey images meet a backbone that wants colour without taking three times their memory.
    """
    chunks = list(_chunks(images, preprocessing))
    side = preprocessing.canvas
    stacked = torch.cat(chunks) if chunks else torch.empty(0, 1, side, side, dtype=torch.uint8)
    return stacked.expand(-1, preprocessing.channels, -1, -1)


def _chunks(images: np.ndarray, preprocessing: Preprocessing) -> Iterator[Tensor]:
    for start in range(0, len(images), CHUNK):
        yield resize(images[start : start + CHUNK], preprocessing)


def resize(images: np.ndarray, preprocessing: Preprocessing) -> Tensor:
    """As `resize_all`, but grey images keep one channel."""
    x = torch.from_numpy(images)
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    if x.shape[1] == 3 and preprocessing.channels == 1:
        x = _grey(x)
    side = preprocessing.canvas
    width, height = resized_shape(x.shape[3], x.shape[2], side)
    if (height, width) != x.shape[2:]:
        x = functional.interpolate(
            x, (height, width), mode=preprocessing.interpolation, align_corners=False, antialias=True
        )
    top, left = centre(height, side), centre(width, side)
    return x[:, :, top : top + side, left : left + side].contiguous()


def _grey(x: Tensor) -> Tensor:
    """Luma of colour images uint8 [n, 3, h, w] by ITU-R 601-2, as Pillow computes it."""
    red, green, blue = x.to(torch.int32).unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)[:, None]
