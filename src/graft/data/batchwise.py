"""Work on whole batches on the CPU: small ones at once, large ones piece by piece on as many threads as torch may use.

A piece goes through every step while it is in a core's cache. For large copies torch's own threads do not pay: each of
its operations waits for all cores, of which another program may hold one. NumPy also asks for huge pages, which makes a
large new array much cheaper to fill.
"""

from collections.abc import Callable
from math import prod

import numpy as np
import torch
from torch import Tensor

from graft.data.recycling import empty
from graft.data.threaded import for_each

PIECE = 2**17  # values that stay in a core's cache while other threads are at work
WORTH_THREADS = 2**22  # values that take much longer than waking threads, and than their waits for the interpreter

Cut = Callable[[slice, Tensor], None]  # writes those images of a batch that are in a slice to [m, c, h, w]


def in_pieces(work: Callable[[slice], None], shape: tuple[int, ...]) -> None:
    """Call `work` with slices that together cover the images of a batch of `shape` [n, ...], in no certain order."""
    num = shape[0]
    if is_small(shape):
        work(slice(num))
        return
    num_pieces = min(num, -(-prod(shape) // PIECE))
    bounds = [num * piece // num_pieces for piece in range(num_pieces + 1)]
    for_each(list(map(slice, bounds, bounds[1:])), work, torch.get_num_threads())


def write(images: Tensor, out: Tensor) -> None:
    """Copy and convert images; on a CPU what is no more than a piece by the calling thread alone."""
    if out.device.type == "cpu" and (len(out) == 1 or out.numel() < 2 * PIECE):
        out.numpy()[:] = images.numpy()
    else:
        out.copy_(images)


def assemble(cut: Cut, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """All images of a batch of `shape` [n, ...], in float32."""
    if device.type != "cpu":
        images = torch.empty(shape, dtype=torch.float32, device=device)
        cut(slice(None), images)
        return images
    images = torch.from_numpy(empty(shape, np.float32))
    in_pieces(lambda piece: cut(piece, images[piece]), shape)
    return images


def gather(x: Tensor, positions: Tensor) -> Tensor:
    """The images [m, ...] at `positions` [m] of images [n, ...], whose order in memory they keep; or other samples."""
    if x.ndim == 4 and x.stride(1) == 0 and x.shape[1] > 1:  # grey images that stand for colour
        return gather(x[:, :1], positions).expand(-1, x.shape[1], -1, -1)
    order, back = memory_order(x)
    images, chosen = x.permute(order).numpy(), positions.numpy()
    if is_small((len(positions), *x.shape[1:])):
        return torch.from_numpy(images.take(chosen, axis=0)).permute(back)  # torch would wait for all its threads
    gathered = empty((len(chosen), *images.shape[1:]), images.dtype)

    def fill(piece: slice) -> None:
        images.take(chosen[piece], axis=0, out=gathered[piece], mode="clip")  # the default mode copies twice

    in_pieces(fill, gathered.shape)
    return torch.from_numpy(gathered).permute(back)


def is_small(shape: tuple[int, ...]) -> bool:
    """Whether a batch is done with before pieces and threads would pay."""
    return prod(shape) < WORTH_THREADS


def memory_order(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Dimensions of images [n, c, h, w] from the outermost in memory to the innermost, and where they come from."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return (0, 2, 3, 1), (0, 3, 1, 2)
    as_they_are = tuple(range(x.ndim))
    return as_they_are, as_they_are


def scale_and_shift(cut: Cut, shape: tuple[int, ...], scale: Tensor, shift: Tensor) -> Tensor:
    """All images of a batch of `shape` [n, c, h, w], times `scale` [c, h, w] plus `shift` [c, h, w], in float32.

    Both are the same all over a channel. torch multiplies and adds several times faster where there is one for every
    value; to read so many takes NumPy longer.
    """
    if is_small(shape):
        scaled = torch.empty(shape, dtype=torch.float32)
        cut(slice(None), scaled)
        return scaled.mul_(scale).add_(shift)
    factors, offsets = (values[:, :1, :1].numpy() for values in (scale, shift))
    images = empty(shape, np.float32)

    def fill(piece: slice) -> None:
        part = images[piece]
        cut(piece, torch.from_numpy(part))
        part *= factors
        part += offsets

    in_pieces(fill, shape)
    return torch.from_numpy(images)
