"""Memory: what does not fit at once is done in parts, and what was freed is kept for the next step."""

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graft.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
MOST_KEPT = 2**31 - 1  # bytes; the most that mallopt takes

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # in what torch's allocators say


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, the device's or the machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def release(device: torch.device) -> None:
    """Give back what the device's allocator keeps for later."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()


def keep_freed_memory() -> None:
    """Let the C library keep up to 2 GiB of what this process frees, where it is glibc.

    As it comes, glibc maps every large tensor anew and gives it back to the kernel when it is freed, so that each step
    of a training waits for the kernel to clear the same pages again: two fifths of the time of a MobileNetV2's step.
    Settings of one's own (`MALLOC_...`, `GLIBC_TUNABLES`) are left alone.
    """
    set_malloc({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: MOST_KEPT})


def set_malloc(options: Mapping[int, int]) -> None:
    """Set options of glibc's allocator (`man mallopt`), where it is that and the user has not set any."""
    own = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if sys.platform != "linux" or own:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        for option, value in options.items():
            mallopt(option, value)


def half_of(num_samples: int) -> int:
    """How many samples to try where so many did not fit.

    Raises:
        UserError: there was one alone.
    """
    if num_samples <= 1:
        raise UserError(
            "out of memory: not even one sample fits; smaller samples (backbone.size), a smaller backbone, or a device "
            "with more memory may help"
        )
    return -(-num_samples // 2)


def in_parts(samples: Tensor, most: int) -> tuple[Tensor, ...]:
    """Samples [n, ...] in as few parts of at most `most` as possible, all but equally large.

    >>> [len(part) for part in in_parts(torch.zeros(10), 4)]
    [4, 3, 3]
    """
    return samples.tensor_split(-(-len(samples) // most))


class Trainee(Protocol):
    """What takes a step; a step that did not fit can be repeated once it has lowered what goes through it at once."""

    @property
    def device(self) -> torch.device:
        """Where it is."""

    def lower_micro_batch(self, error: BaseException) -> None:
        """Make ready to repeat the step with fewer samples at once.

        Raises:
            UserError: that cannot be.
        """


def until_it_fits(trainee: Trainee, step: Callable[[], T]) -> T:
    """The result of `step`, repeated with fewer samples at once for as long as memory does not suffice.

    Raises:
        UserError: the trainee has no smaller step.
    """
    while True:
        try:
            return step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            trainee.lower_micro_batch(error)
        release(trainee.device)  # here, where nothing holds the frames of the failed step any more


@dataclass
class Fitting:
    """Applies a function of samples, each by itself, to as many at once as fit into memory."""

    function: Callable[[Tensor], Tensor]
    most: int | None = None  # at once; None: as many as are given

    def __call__(self, samples: Tensor) -> Tensor:
        """The results [n, ...] for samples [n, ...].

        Raises:
            UserError: not even one sample fits.
        """
        while True:
            at_once = min(self.most or len(samples), len(samples))
            try:
                if at_once == len(samples):
                    return self.function(samples)
                return torch.cat([self.function(part) for part in in_parts(samples, at_once)])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.most = half_of(at_once)
            release(samples.device)
            log.warning("out of memory with %d samples at once, without gradients; now %d", at_once, self.most)


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Any, ...]:
        gradients = (None if gradient is None else gradient * factor for gradient in ctx.gradients)
        return None, None, *gradients


def with_gradients(loss: Tensor, parameters: list[Tensor], gradients: list[Tensor | None]) -> Tensor:
    """The scalar `loss` as a function of the parameters, of which it has these gradients; None for those it has not."""
    total: Tensor = _WithGradients.apply(loss, gradients, *parameters)
    return total
