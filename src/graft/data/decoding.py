"""Image files brought to their canvas."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from graft.data.preprocessing import Preprocessing
from graft.data.threaded import map_all, num_cores

# What Pillow raises on files that are not images, are damaged, are cut off, or would fill the memory.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
PILLOW_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Unreadable:
    """An image file that cannot be decoded."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


def decode_all(
    paths: Sequence[Path], preprocessing: Preprocessing, put: Callable[[int, np.ndarray], None]
) -> dict[int, Unreadable]:
    """Decode files on all cores, and hand position and canvas uint8 [c, canvas, canvas] of each to `put`.

    `put` is called from several threads. Returns those that cannot be decoded, by position.
    """

    def one(position: int) -> Unreadable | None:
        found = decode(paths[position], preprocessing)
        if isinstance(found, Unreadable):
            return found
        put(position, found)
        return None

    results = map_all(one, range(len(paths)), num_cores())
    return {position: found for position, found in enumerate(results) if found is not None}


def check_all(paths: Sequence[Path]) -> list[Unreadable]:
    """Those of the files that cannot be decoded."""
    return [found for found in map_all(check, paths, num_cores()) if found is not None]


def decode(path: Path, preprocessing: Preprocessing) -> np.ndarray | Unreadable:
    """One image file as uint8 [c, canvas, canvas], upright, its shorter edge resized and its centre cropped.

    A pixel's channels lie together in memory. Pillow copies an image in each step, so steps that change nothing are
    left out: a copy takes a third of the time of decoding.
    """
    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            picture = _with_channels(image, preprocessing.channels)
    except UNREADABLE as error:
        return Unreadable(path, _reason(error))
    side = preprocessing.canvas
    width, height = resized_shape(picture.width, picture.height, side)
    if picture.size != (width, height):
        picture = picture.resize((width, height), PILLOW_FILTERS[preprocessing.interpolation])
    left, top = centre(width, side), centre(height, side)
    pixels = np.asarray(picture)[top : top + side, left : left + side]
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
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def resized_shape(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height once the shorter edge is `side`."""
    shorter = min(width, height)
    return int(side * width / shorter), int(side * height / shorter)


def centre(length: int, side: int) -> int:
    """Where the middle `side` of a length begins."""
    return round((length - side) / 2)
