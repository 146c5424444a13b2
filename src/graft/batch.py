"""What the loaders hand to the module. A batch of the unlabelled kind has no place for labels."""

from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor


class LabelledBatch(NamedTuple):
    """Inputs with their labels."""

    x: Tensor  # stored samples [n, ...] (canvases, token ids), their views, or cached features [n, d]
    y: Tensor  # [n] class indices, or [n, k] class probabilities after mixing
    positions: Tensor  # [n] positions in the split
    domains: Tensor | None = None  # [n] which of several data sets each is from, by number; None where there is one


class UnlabelledBatch(NamedTuple):
    """Inputs alone."""

    x: Tensor  # stored samples [n, ...] (canvases, token ids), their views, or cached features [n, d]
    positions: Tensor  # [n] positions in the split


class PairedBatch(NamedTuple):
    """Labelled samples of the source beside samples of the target without labels; their numbers may differ.

    Where some of the target's samples have labels, a batch of those is there too.
    """

    source: LabelledBatch | None  # None for methods that no longer have the source's samples
    target: UnlabelledBatch
    labelled: LabelledBatch | None = None  # samples of the target


class BatchView(Protocol):
    """What a batch goes through between the loader and the network."""

    def train(self, batch: LabelledBatch, generator: Generator) -> LabelledBatch:
        """A random training view; every draw comes from `generator`."""

    def evaluate(self, x: Tensor) -> Tensor:
        """The fixed view that evaluation uses."""


def in_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Inputs in the type of a network's weights; token ids stay whole numbers."""
    return x.to(dtype) if x.is_floating_point() else x
