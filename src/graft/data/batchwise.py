"""Work on whole batches on the CPU: with NumPy, on as many threads as torch may use.

torch's own threads pay for large products, not for copies: each of its operations waits for all cores, of which another
program may hold one. NumPy also asks for huge pages, which makes a large new array much cheaper to fill.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod

import numpy as np
import torch
from torch import Tensor

PIECE = 2**18  # values that stay in a core's cache
WORTH_THREADS = 2**22  # values that take much longer than starting threads


def in_pieces(work: Callable[[slice], None], shape: tuple[int, ...]) -> None:
    """Call `work` with slices that together cover the images of a batch of `shape` [n, ...], in no certain order."""
    num, values = shape[0], prod(shape[1:])
    step = max(1, PIECE // values)
    pieces = [slice(start, start + step) for start in range(0, num, step)]
    if num * values < WORTH_THREADS:
        for piece in pieces:
            work(piece)
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(work, pieces))


def gather(x: Tensor, positions: Tensor) -> Tensor:
    """The images [m, ...] at `positions` [m] of images [n, ...]."""
    images, chosen = x.numpy(), positions.numpy()
    gathered = np.empty((len(chosen), *images.shape[1:]), images.dtype)

    def fill(piece: slice) -> None:
        gathered[piece] = images[chosen[piece]]

    in_pieces(fill, gathered.shape)
    return torch.from_numpy(gathered)


def scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Images [n, c, h, w] times `scale` [c, 1, 1] plus `shift` [c, 1, 1], in float32."""
    pixels, factors, offsets = x.numpy(), scale.numpy(), shift.numpy()
    scaled = np.empty(pixels.shape, np.float32)

    def fill(piece: slice) -> None:
        np.multiply(pixels[piece], factors, out=scaled[piece])
        scaled[piece] += offsets

    in_pieces(fill, scaled.shape)
    return torch.from_numpy(scaled)
