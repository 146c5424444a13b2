"""Cosine similarity to one learnt direction per class."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graft.errors import UserError
from graft.models.heads.base import Head


class CosineHead(Head):
    """Logits s cos(f, w_k) with a learnt scale s (Gidaris and Komodakis 2018; "Baseline++" of Chen et al. 2019).

    The length of a feature vector does not matter, which helps when there are few labels a class.

    Args:
        num_features, num_classes: d and k.
        scale: s at the start, above 0.

    Raises:
        UserError: `scale` is not above 0.
    """

    def __init__(self, num_features: int, num_classes: int, scale: float = 10.0) -> None:
        if scale <= 0:
            raise UserError(f"head.scale={scale}: expected a number above 0")
        super().__init__(num_features, num_classes)
        self.weight = nn.Parameter(torch.randn(num_classes, num_features) / num_features**0.5)
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, features: Tensor) -> Tensor:
        """Logits [n, k] of features [n, d]."""
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))
