"""Crops of whole batches, mirrored where told; every draw from a given generator.

What is random is drawn for the whole batch; the crops themselves are cut when some of the images are asked for.
On a CPU, NumPy's windows and torch's resampling of single uint8 images are several times faster than indexing and grid
sampling, which are what a GPU does best. Both make the same draws and cut the same boxes.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from graft.data.batchwise import Cut, write
from graft.data.draws import uniform
from graft.data.lazy import sources

MIN_LOG_ASPECT, MAX_LOG_ASPECT = math.log(3 / 4), math.log(4 / 3)


def centre_crop(x: Tensor, size: int) -> Tensor:
    """The middle [n, c, size, size] of images [n, c, h, w]."""
    top, left = (x.shape[2] - size) // 2, (x.shape[3] - size) // 2
    return x[:, :, top : top + size, left : left + size]


def mirror(x: Tensor, flip: Tensor) -> Tensor:
    """Images [n, c, h, w], of which those in `flip` [n] have left and right exchanged."""
    if x.device.type == "cpu":
        return torch.from_numpy(mirror_in_place(x.numpy().copy(), flip.numpy()))
    return torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)


def mirror_in_place(pixels: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """As `mirror`, for arrays; torch turns rows of bytes around in one go, NumPy byte by byte."""
    pixels[flip] = torch.from_numpy(pixels[flip]).flip(3).numpy()
    return pixels


def random_crop(x: Tensor, size: int, padding: int, flip: Tensor, generator: Generator) -> Cut:
    """Crops [n, c, size, size] at random places of images uint8 [n, c, side, side] padded with zeros.

    `flip` [n] says which to mirror.
    """
    places = x.shape[2] + 2 * padding - size + 1
    tops, lefts = torch.randint(places, (2, len(x)), generator=generator, device=x.device)
    if x.device.type != "cpu":
        return lambda piece, out: write(
            index_windows(x[piece], size, padding, tops[piece], lefts[piece], flip[piece]), out
        )
    return Windows(x, size, padding, tops.numpy(), lefts.numpy(), flip.numpy())


@dataclass(frozen=True)
class Windows:
    """Crops [n, c, size, size] that begin at `tops` [n] and `lefts` [n] of images on a CPU padded with zeros."""

    x: Tensor  # uint8 [n, c, side, side]
    size: int
    padding: int
    tops: np.ndarray
    lefts: np.ndarray
    flip: np.ndarray  # bool [n], which to mirror

    def __call__(self, piece: slice, out: Tensor) -> None:
        """Cut those in a slice."""
        pixels, (tops, lefts, flip) = self.x[piece].numpy(), self.places(piece)
        write(torch.from_numpy(slide_windows(pixels, self.size, self.padding, tops, lefts, flip)), out)

    def scaled(self, kernels: Any, piece: slice, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
        """Cut those in a slice, times `scale` [c] plus `shift` [c], by compiled code."""
        pixels = np.ascontiguousarray(self.x[piece].numpy())
        kernels.crop_windows(pixels, *self.places(piece), self.padding, scale, shift, out)

    def places(self, piece: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tops, lefts and which to mirror."""
        return self.tops[piece], self.lefts[piece], self.flip[piece]


def slide_windows(
    pixels: np.ndarray, size: int, padding: int, tops: np.ndarray, lefts: np.ndarray, flip: np.ndarray
) -> np.ndarray:
    """The parts [n, c, size, size] of padded images that begin at `tops` [n] and `lefts` [n], mirrored.

    An image whose bytes are read from some rows and columns further on is moved by so many, in one copy. What came from
    beyond its edges is made black.
    """
    num, channels, side, _ = pixels.shape
    length, before = channels * side**2, padding * (side + 1)
    memory = np.empty(pixels.size + (side + 2 * padding - size) * (side + 1), np.uint8)
    memory[before : before + pixels.size].reshape(pixels.shape)[:] = pixels
    readings = torch.from_numpy(memory).unfold(0, length, 1).numpy()
    moved = readings[np.arange(num) * length + tops * side + lefts].reshape(num, channels, side**2)
    by_top, by_left = edge_masks(side, size, padding)
    inside = by_top.take(tops, axis=0)
    inside &= by_left.take(lefts, axis=0)
    moved &= inside[:, None]
    return mirror_in_place(moved.reshape(pixels.shape)[:, :, :size, :size], flip)


@lru_cache(maxsize=4)
def edge_masks(side: int, size: int, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """What a window that begins at each top, and at each left, sees: uint8 [places, side * side], 0 beyond an edge."""
    at = np.arange(-padding, side + padding - size + 1)[:, None] + np.arange(side)
    inside = np.where((at >= 0) & (at < side), np.uint8(255), np.uint8(0))
    return np.repeat(inside, side, axis=1), np.tile(inside, (1, side))


def index_windows(x: Tensor, size: int, padding: int, tops: Tensor, lefts: Tensor, flip: Tensor) -> Tensor:
    """As `slide_windows`, on any device."""
    slid = functional.pad(x, [padding] * 4).unfold(2, size, 1).unfold(3, size, 1)
    return mirror(slid[torch.arange(len(x), device=x.device), :, tops, lefts], flip)


def random_resized_crop(x: Tensor, size: int, shares: tuple[float, float], flip: Tensor, generator: Generator) -> Cut:
    """Boxes of random area and shape of images [n, c, h, w], brought to [n, c, size, size] bilinearly.

    Areas are `shares` of the image, aspect ratios 3/4 to 4/3 (Szegedy et al., "Going Deeper with Convolutions",
    CVPR 2015, section 6); a box that would be longer than the image is cut to it. `flip` [n] says which to mirror.
    """
    boxes = random_boxes(x, shares, generator)
    if x.device.type == "cpu":
        return Boxes(x, boxes, size, flip)
    return lambda piece, out: write(sample_boxes(x[piece], boxes[piece], size, flip[piece]), out)


def random_boxes(x: Tensor, shares: tuple[float, float], generator: Generator) -> Tensor:
    """Tops, lefts, heights and widths int64 [n, 4], in pixels of images [n, c, h, w]."""
    num, (height, width) = len(x), x.shape[2:]
    area = uniform(num, *shares, generator)
    aspect = uniform(num, MIN_LOG_ASPECT, MAX_LOG_ASPECT, generator).exp()
    widths = ((area * aspect).sqrt() * width).round().clamp(1, width)
    heights = ((area / aspect).sqrt() * height).round().clamp(1, height)
    lefts = (uniform(num, 0, 1, generator) * (width - widths + 1)).floor()
    tops = (uniform(num, 0, 1, generator) * (height - heights + 1)).floor()
    return torch.stack([tops, lefts, heights, widths], dim=1).long()


class Boxes:
    """Boxes int64 [n, 4] of images [n, c, h, w] on a CPU, each cut out and resampled by itself, in the images' type.

    torch resamples a uint8 image twice as fast where a pixel's channels lie together.
    """

    def __init__(self, x: Tensor, boxes: Tensor, size: int, flip: Tensor) -> None:
        self.x = x
        images, rows = sources(x)
        self.pixels, self.rows = images.permute(0, 2, 3, 1).numpy(), rows.tolist()
        self.boxes, self.size, self.flip = boxes.tolist(), size, flip.tolist()

    def __call__(self, piece: slice, out: Tensor) -> None:
        """Cut those in a slice."""
        for i, written in zip(self.numbers(piece), out.numpy(), strict=True):
            box = torch.from_numpy(self.box(i).transpose(0, 3, 1, 2))
            [new] = functional.interpolate(box, (self.size, self.size), mode="bilinear").numpy()
            written[:] = new[:, :, ::-1] if self.flip[i] else new

    def scaled(self, kernels: Any, piece: slice, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
        """Cut those in a slice, times `scale` [c] plus `shift` [c], by compiled code."""
        for i, written in zip(self.numbers(piece), out, strict=True):
            kernels.resample(self.box(i)[0], self.flip[i], scale, shift, written)

    def numbers(self, piece: slice) -> range:
        """Which boxes are in a slice."""
        return range(*piece.indices(len(self.rows)))

    def box(self, i: int) -> np.ndarray:
        """The `i`-th box [1, h, w, c] before it is resampled."""
        row, (top, left, height, width) = self.rows[i], self.boxes[i]
        return np.ascontiguousarray(self.pixels[row : row + 1, top : top + height, left : left + width])


def sample_boxes(x: Tensor, boxes: Tensor, size: int, flip: Tensor) -> Tensor:
    """Boxes int64 [n, 4] of images [n, c, h, w] as floats, all sampled at once.

    The outermost pixels take in what lies just outside.
    """
    tops, lefts, heights, widths = boxes.unbind(1)
    num, channels, height, width = x.shape
    theta = torch.zeros(num, 2, 3, device=x.device)
    theta[:, 0, 0] = torch.where(flip, -widths, widths) / width
    theta[:, 1, 1] = heights / height
    theta[:, 0, 2] = (2 * lefts + widths) / width - 1
    theta[:, 1, 2] = (2 * tops + heights) / height - 1
    grid = functional.affine_grid(theta, [num, channels, size, size], align_corners=False)
    return functional.grid_sample(x.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
