"""Crops of whole batches, mirrored where told; every draw from a given generator.

On a CPU, NumPy's windows and torch's resampling of single uint8 images are several times faster than indexing and grid
sampling, which are what a GPU does best. Both make the same draws and cut the same boxes.
"""

import math

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from graft.data.batchwise import in_pieces
from graft.data.draws import uniform

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
    """As `mirror`, for arrays."""
    pixels[flip] = pixels[flip][..., ::-1]
    return pixels


def random_crop(x: Tensor, size: int, padding: int, flip: Tensor, generator: Generator) -> Tensor:
    """Crops [n, c, size, size] at random places of images padded with zeros; `flip` [n] says which to mirror."""
    tops, lefts = (
        torch.randint(edge + 2 * padding - size + 1, (len(x),), generator=generator, device=x.device)
        for edge in x.shape[2:]
    )
    if x.device.type == "cpu":
        cut = slide_windows(x.numpy(), size, padding, tops.numpy(), lefts.numpy())
        return torch.from_numpy(mirror_in_place(cut, flip.numpy()))
    return mirror(index_windows(x, size, padding, tops, lefts), flip)


def slide_windows(x: np.ndarray, size: int, padding: int, tops: np.ndarray, lefts: np.ndarray) -> np.ndarray:
    """The parts [n, c, size, size] of padded images [n, c, h, w] that begin at `tops` [n] and `lefts` [n]."""
    num, channels, height, width = x.shape
    padded = np.zeros((num, channels, height + 2 * padding, width + 2 * padding), x.dtype)
    padded[:, :, padding : padding + height, padding : padding + width] = x
    slid = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
    return slid[np.arange(num), :, tops, lefts]


def index_windows(x: Tensor, size: int, padding: int, tops: Tensor, lefts: Tensor) -> Tensor:
    """As `slide_windows`, for tensors."""
    slid = functional.pad(x, [padding] * 4).unfold(2, size, 1).unfold(3, size, 1)
    return slid[torch.arange(len(x), device=x.device), :, tops, lefts]


def random_resized_crop(
    x: Tensor, size: int, shares: tuple[float, float], flip: Tensor, generator: Generator
) -> Tensor:
    """Boxes of random area and shape of images [n, c, h, w], brought to [n, c, size, size] bilinearly.

    Areas are `shares` of the image, aspect ratios 3/4 to 4/3 (Szegedy et al., "Going Deeper with Convolutions",
    CVPR 2015, section 6); a box that would be longer than the image is cut to it. `flip` [n] says which to mirror.
    """
    tops, lefts, heights, widths = random_boxes(x, shares, generator)
    if x.device.type == "cpu":
        return resample_boxes(x, torch.stack([tops, lefts, heights, widths], dim=1), size, flip)
    return sample_boxes(x.float(), tops, lefts, heights, widths, size, flip)


def random_boxes(x: Tensor, shares: tuple[float, float], generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tops, lefts, heights and widths int64 [n], in pixels of images [n, c, h, w]."""
    num, (height, width) = len(x), x.shape[2:]
    area = uniform(num, *shares, generator)
    aspect = uniform(num, MIN_LOG_ASPECT, MAX_LOG_ASPECT, generator).exp()
    widths = ((area * aspect).sqrt() * width).round().clamp(1, width)
    heights = ((area / aspect).sqrt() * height).round().clamp(1, height)
    lefts = (uniform(num, 0, 1, generator) * (width - widths + 1)).floor()
    tops = (uniform(num, 0, 1, generator) * (height - heights + 1)).floor()
    return tops.long(), lefts.long(), heights.long(), widths.long()


def resample_boxes(x: Tensor, boxes: Tensor, size: int, flip: Tensor) -> Tensor:
    """Boxes int64 [n, 4] of images [n, c, h, w], each cut out and resampled by itself; the values keep their type."""
    pixels, places, mirrored = x.numpy(), boxes.tolist(), flip.tolist()
    resampled = np.empty((*x.shape[:2], size, size), pixels.dtype)

    def resample(piece: slice) -> None:
        for i in range(*piece.indices(len(x))):
            top, left, height, width = places[i]
            box = np.ascontiguousarray(pixels[i : i + 1, :, top : top + height, left : left + width])
            new = functional.interpolate(torch.from_numpy(box), (size, size), mode="bilinear", align_corners=False)
            resampled[i] = new.numpy()[0, :, :, ::-1] if mirrored[i] else new.numpy()[0]

    in_pieces(resample, resampled.shape)
    return torch.from_numpy(resampled)


def sample_boxes(
    x: Tensor, tops: Tensor, lefts: Tensor, heights: Tensor, widths: Tensor, size: int, flip: Tensor
) -> Tensor:
    """Boxes of float images [n, c, h, w], all sampled at once; the outermost pixels take in what lies just outside."""
    num, channels, height, width = x.shape
    theta = torch.zeros(num, 2, 3, device=x.device)
    theta[:, 0, 0] = torch.where(flip, -widths, widths) / width
    theta[:, 1, 1] = heights / height
    theta[:, 0, 2] = (2 * lefts + widths) / width - 1
    theta[:, 1, 2] = (2 * tops + heights) / height - 1
    grid = functional.affine_grid(theta, [num, channels, size, size], align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
