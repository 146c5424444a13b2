"""When crops are made by compiled code: on a CPU, with Numba installed, and once a process has made enough of them."""

import logging
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from graft.data import batchwise
from graft.data.batchwise import Cut, in_pieces
from graft.data.crops import Boxes, Windows
from graft.data.recycling import empty

log = logging.getLogger(__name__)

# Values of crops after which compiled code has saved what loading it takes: half a second, at half a nanosecond each.
WORTH_LOADING = 2**30

_made = 0  # values of crops that this process was asked for


def scale_and_shift(cut: Cut, shape: tuple[int, ...], scale: Tensor, shift: Tensor) -> Tensor:
    """As `batchwise.scale_and_shift`, by compiled code where there is some and it pays; bit for bit the same."""
    if not can_be_compiled(cut) or (kernels := kernels_for(shape)) is None:
        return batchwise.scale_and_shift(cut, shape, scale, shift)
    return run(kernels, cut, shape, *(np.ascontiguousarray(values[:, 0, 0].numpy()) for values in (scale, shift)))


def run(kernels: Any, cut: Boxes | Windows, shape: tuple[int, ...], scale: np.ndarray, shift: np.ndarray) -> Tensor:
    """The crops of a batch of `shape` [n, c, h, w], times `scale` [c] plus `shift` [c], by compiled code."""
    images = empty(shape, np.float32)
    in_pieces(lambda piece: cut.scaled(kernels, piece, scale, shift, images[piece]), shape)
    return torch.from_numpy(images)


def can_be_compiled(cut: Cut) -> TypeGuard[Boxes | Windows]:
    """Whether there are kernels for such crops."""
    return isinstance(cut, (Boxes, Windows)) and cut.x.dtype == torch.uint8


def kernels_for(shape: tuple[int, ...]) -> Any:
    """The compiled code, or None where there is none or too few crops were made; counts those of `shape`."""
    global _made
    _made += prod(shape)
    return load_kernels() if _made >= WORTH_LOADING else None


@cache
def load_kernels() -> Any:
    """The module of compiled code; None where Numba is missing or does not work, or torch computes otherwise here."""
    if find_spec("numba") is None:
        return None
    try:
        kernels = import_module("graft.data.kernels")
        same = resamples_as_torch(kernels)
    except (ImportError, RuntimeError) as error:  # of a Numba that does not fit NumPy; of a cache it cannot write
        log.warning("training crops are not compiled: %s", error)
        return None
    if not same:
        log.warning("training crops are not compiled: this torch resamples images in another way")
        return None
    return kernels


def resamples_as_torch(kernels: Any) -> bool:
    """Whether torch, which resamples in several ways by processor, does so in the way of the compiled code."""
    rng, one = np.random.default_rng(0), np.ones(3, np.float32)
    for height, width, size in ((40, 56, 32), (23, 9, 32), (100, 71, 24)):
        box = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        found = np.empty((3, size, size), np.float32)
        kernels.resample(box, False, one, 0 * one, found)
        [expected] = functional.interpolate(
            torch.from_numpy(box.transpose(2, 0, 1)[None]), (size, size), mode="bilinear"
        )
        if not np.array_equal(found, expected.numpy()):
            return False
    return True
