"""Batches of images that are read where they are needed."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from graft.data.batchwise import gather, is_small


class LazyImages(Tensor):
    """The images [m, ...] at `rows` [m] of `images` [n, ...] on the CPU, which stay where they lie until they are used.

    Every operation of torch takes it for the tensor that `gather` would make, and makes that tensor, each time anew.
    What works on some of the images at a time takes them by a slice, which gathers those alone, or from `images`.
    """

    images: Tensor
    rows: Tensor  # int64 [m]

    @staticmethod
    def __new__(cls, images: Tensor, rows: Tensor) -> "LazyImages":
        """Shape, type and device are those of the images gathered."""
        lazy: LazyImages = Tensor._make_wrapper_subclass(
            cls, (len(rows), *images.shape[1:]), dtype=images.dtype, device=images.device
        )
        lazy.images, lazy.rows = images, rows
        return lazy

    def gathered(self) -> Tensor:
        """The images in memory of their own."""
        return gather(self.images, self.rows)

    def __getitem__(self, index: Any) -> Tensor:
        if isinstance(index, slice):
            return gather(self.images, self.rows[index])
        return self.gathered()[index]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(cls, cls.gathered, (args, kwargs or {}))
        return func(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return torch.as_tensor, (self.gathered(),)  # another process gets these images, not all of them


def take(images: Tensor, rows: Tensor) -> Tensor:
    """The images [m, ...] at `rows` [m] of `images` [n, ...]: small ones gathered, large ones lazily."""
    return gather(images, rows) if is_small((len(rows), *images.shape[1:])) else LazyImages(images, rows)


def sources(x: Tensor) -> tuple[Tensor, Tensor]:
    """Images that hold those of `x` [m, ...], and their rows [m] there."""
    return (x.images, x.rows) if isinstance(x, LazyImages) else (x, torch.arange(len(x)))
