"""Arrays in memory that was used before.

What a process has not touched yet the system must clear first, page by page and one thread at a time; for the images of
a batch that takes longer than computing them.
"""

from collections import deque
from math import prod
from weakref import finalize

import numpy as np
from numpy.typing import DTypeLike

WORTH_RECYCLING = 2**22  # bytes; the memory of smaller arrays comes from the C library, which recycles it as well

_free: deque[np.ndarray] = deque(maxlen=4)  # a batch and its view, while those before are still in use


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array of undefined values.

    Once it is gone, with every tensor that `torch.from_numpy` made of it, another array may get its memory; an array
    that was sliced from it must not be kept longer than itself.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    if size < WORTH_RECYCLING:
        return np.empty(shape, dtype)
    block = _take(size)
    array = block[:size].view(dtype).reshape(shape)
    finalize(array, _free.append, block).atexit = False
    return array


def _take(size: int) -> np.ndarray:
    """Free memory of `size` bytes or up to twice as many, or else new memory.

    What was used last comes first: part of it may still be in a cache of the processor.
    """
    for _ in range(len(_free)):
        try:
            block = _free.pop()
        except IndexError:  # another thread took it
            break
        if size <= block.nbytes <= 2 * size:
            return block
        _free.appendleft(block)
    return np.empty(size, np.uint8)
