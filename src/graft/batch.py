"""What the loaders hand to the module. A batch of the unlabelled kind has no place for labels."""

from typing import NamedTuple, Protocol

from torch import Generator, Tensor


class LabelledBatch(NamedTuple):
    """Inputs with their labels."""

    x: Tensor  # [n, c, h, w] or cached features [n, d]
    y: Tensor  # [n] class indices, or [n, k] class probabilities after mixing
    positions: Tensor  # [n] positions in the split
    domains: Tensor | None = None  # [n] which of several data sets each is from, by number; None where there is one


class UnlabelledBatch(NamedTuple):
    """Inputs alone."""

    x: Tensor  # [n, c, h, w] or cached features [n, d]
    positions: Tensor  # [n] positions in the split


class PairedBatch(NamedTuple):
    """Labelled images of the source beside images of the target without labels; their numbers may differ.

    Where some of the target's images have labels, a batch of those is there too.
    """

    source: LabelledBatch | None  # None for methods that no longer have the source's images
    target: UnlabelledBatch
    labelled: LabelledBatch | None = None  # images of the target


class BatchView(Protocol):
    """What a batch goes through between the loader and the network."""

    def train(self, batch: LabelledBatch, generator: Generator) -> LabelledBatch:
        """A random training view; every draw comes from `generator`."""

    def evaluate(self, x: Tensor) -> Tensor:
        """The fixed view that evaluation uses."""
