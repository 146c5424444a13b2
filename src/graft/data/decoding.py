"""Image files brought to their canvas."""

import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torchvision.io import decode_jpeg

from graft.data.preprocessing import Preprocessing
from graft.data.readers.base import Unreadable
from graft.data.threaded import map_all, num_cores

# What Pillow raises on files that are not images, are damaged, are cut off, or would fill the memory.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error, Image.DecompressionBombError)
# Its successor is a package of its own; the version of torchvision is bounded in pyproject.toml.
warnings.filterwarnings("ignore", "The image decoding and encoding capabilities of TorchVision", DeprecationWarning)
# What Pillow thinks odd in a file and can read all the same.
warnings.filterwarnings("ignore", module=r"PIL\.")
PILLOW_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


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

    A pixel's channels lie together in memory.
    """
    try:
        with Image.open(path) as image:
            pixels = _resized_pixels(image, path, preprocessing)
    except UNREADABLE as error:
        return Unreadable(path, _reason(error))
    side = preprocessing.canvas
    top, left = (centre(length, side) for length in pixels.shape[:2])
    pixels = pixels[top : top + side, left : left + side]
    return pixels[None] if preprocessing.channels == 1 else pixels.transpose(2, 0, 1)


def _resized_pixels(image: Image.Image, path: Path, preprocessing: Preprocessing) -> np.ndarray:
    """The pixels [h, w, c], or [h, w] of grey ones, of an image that is open, its shorter edge resized to the canvas.

    Each step of Pillow's copies the image, so steps that change nothing are left out.
    """
    pixels = _jpeg_pixels(path) if _is_plain_jpeg(image, preprocessing.channels) else None
    if pixels is None:
        ImageOps.exif_transpose(image, in_place=True)
        image = _with_channels(image, preprocessing.channels)
    size = resized_shape(image.width, image.height, preprocessing.canvas)
    if image.size == size:
        return np.asarray(image) if pixels is None else pixels
    picture = image if pixels is None else Image.fromarray(pixels)
    return np.asarray(picture.resize(size, PILLOW_FILTERS[preprocessing.interpolation]))


def _is_plain_jpeg(image: Image.Image, channels: int) -> bool:
    """Whether a JPEG's own pixels are what is wanted: in colour and upright."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if image.format == "JPEG" else 0
    return orientation == 1 and image.mode == "RGB" and channels == 3


def _jpeg_pixels(path: Path) -> np.ndarray | None:
    """The pixels [h, w, 3] of a colour JPEG; None where torchvision cannot decode it.

    torchvision reads the file whole and copies less than Pillow does; both use libjpeg-turbo.
    """
    try:
        return decode_jpeg(torch.from_numpy(np.fromfile(path, np.uint8))).permute(1, 2, 0).numpy()
    except RuntimeError:
        return None


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
