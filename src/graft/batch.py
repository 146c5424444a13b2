"""What the loaders hand to the module. A batch of the unlabelled kind has no place for labels."""

from typing import NamedTuple

from torch import Tensor


class LabelledBatch(NamedTuple):
    """Inputs with their labels."""

    x: Tensor  # [n, c, h, w] or cached features [n, d]
    y: Tensor  # [n] class indices, or [n, k] class probabilities after mixing
    index: Tensor  # [n] positions in the split


class UnlabelledBatch(NamedTuple):
    """Inputs alone."""

    x: Tensor  # [n, c, h, w] or cached features [n, d]
    index: Tensor  # [n] positions in the split
