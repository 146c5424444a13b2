"""Images on their canvas: decoded once and kept, or brought to it each time they are asked for."""

import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from graft.data.preprocessing import Preprocessing
from graft.data.readers.base import RawSplit, num_cores
from graft.errors import UserError

# What Pillow raises on files that are not images, are damaged or are cut off.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
PILLOW_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CHUNK = 1024  # images resized at once


class Images(Protocol):
    """Canvases by position."""

    def __len__(self) -> int: ...

    def canvases(self, positions: Tensor) -> Tensor:
        """uint8 [n, c, canvas, canvas] of positions [n]."""


@dataclass(frozen=True)
class KeptImages:
    """Canvases in memory."""

    tensor: Tensor  # uint8 [n, c, canvas, canvas]

    def __len__(self) -> int:
        return len(self.tensor)

    def canvases(self, positions: Tensor) -> Tensor:
        """uint8 [n, c, canvas, canvas] of positions [n]."""
        return self.tensor[positions]


@dataclass(frozen=True)
class ResizedImages:
    """Arrays in memory that are too large to keep on their canvas."""

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
    """Image files too many to keep."""

    paths: Sequence[Path]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def canvases(self, positions: Tensor) -> Tensor:
        """uint8 [n, c, canvas, canvas] of positions [n].

        Raises:
            UserError: a file that could be read when the domain was loaded cannot be read any more.
        """
        rows = [decode(self.paths[position], self.preprocessing) for position in positions.tolist()]
        broken = [str(row) for row in rows if isinstance(row, Unreadable)]
        if broken:
            raise UserError(f"cannot be read any more: {', '.join(broken)}")
        return torch.from_numpy(np.stack([row for row in rows if isinstance(row, np.ndarray)]))


@dataclass(frozen=True)
class Unreadable:
    """An image file that cannot be decoded."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


def num_bytes(num_images: int, preprocessing: Preprocessing) -> int:
    """Memory that so many canvases take."""
    return num_images * preprocessing.channels * preprocessing.canvas**2


def open_images(split: RawSplit, preprocessing: Preprocessing, keep: bool) -> tuple[Images, list[Unreadable]]:
    """The images of a split on their canvas, and those that cannot be decoded, which are left out of it.

    Every file is decoded once, whether it is kept or not.
    """
    if isinstance(split.images, np.ndarray):
        if keep:
            return KeptImages(resize_all(split.images, preprocessing)), []
        return ResizedImages(split.images, preprocessing), []
    if keep:
        return _decode_all(split.images, preprocessing)
    with ThreadPoolExecutor(num_cores()) as pool:
        broken = [found for found in pool.map(check, split.images) if found is not None]
    missing = {found.path for found in broken}
    return ImageFiles([path for path in split.images if path not in missing], preprocessing), broken


def _decode_all(paths: Sequence[Path], preprocessing: Preprocessing) -> tuple[KeptImages, list[Unreadable]]:
    side = preprocessing.canvas
    canvases = np.empty((len(paths), preprocessing.channels, side, side), dtype=np.uint8)
    broken: list[Unreadable] = []
    num_good = 0
    with ThreadPoolExecutor(num_cores()) as pool:
        for found in pool.map(lambda path: decode(path, preprocessing), paths):
            if isinstance(found, Unreadable):
                broken.append(found)
            else:
                canvases[num_good] = found
                num_good += 1
    return KeptImages(torch.from_numpy(canvases[:num_good])), broken


def decode(path: Path, preprocessing: Preprocessing) -> np.ndarray | Unreadable:
    """One image file as uint8 [c, canvas, canvas], upright, its shorter edge resized and its centre cropped."""
    try:
        with Image.open(path) as image:
            picture = _with_channels(ImageOps.exif_transpose(image), preprocessing.channels)
    except UNREADABLE as error:
        return Unreadable(path, _reason(error))
    side = preprocessing.canvas
    width, height = _resized_shape(picture.width, picture.height, side)
    picture = picture.resize((width, height), PILLOW_FILTERS[preprocessing.interpolation])
    left, top = _centre(width, side), _centre(height, side)
    pixels = np.asarray(picture.crop((left, top, left + side, top + side)))
    return pixels[None] if preprocessing.channels == 1 else pixels.transpose(2, 0, 1)


def check(path: Path) -> Unreadable | None:
    """Decode one image file as coarsely as its format allows, only to see whether it can be."""
    try:
        with Image.open(path) as image:
            image.draft(None, (1, 1))
            image.load()
    except UNREADABLE as error:
        return Unreadable(path, _reason(error))
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def _resized_shape(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height once the shorter edge is `side`."""
    shorter = min(width, height)
    return int(side * width / shorter), int(side * height / shorter)


def _centre(length: int, side: int) -> int:
    return round((length - side) / 2)


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
    width, height = _resized_shape(x.shape[3], x.shape[2], side)
    if (height, width) != x.shape[2:]:
        x = functional.interpolate(
            x, (height, width), mode=preprocessing.interpolation, align_corners=False, antialias=True
        )
    top, left = _centre(height, side), _centre(width, side)
    return x[:, :, top : top + side, left : left + side].contiguous()


def _grey(x: Tensor) -> Tensor:
    """Luma of colour images uint8 [n, 3, h, w] by ITU-R 601-2, as Pillow computes it."""
    red, green, blue = x.to(torch.int32).unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)[:, None]
