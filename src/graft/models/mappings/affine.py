"""A learnt affine map."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graft.models.mappings.base import Mapping


class AffineMapping(Mapping):
    """g(f) = W f + b, the identity at the start."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.weight = nn.Parameter(torch.eye(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, features: Tensor) -> Tensor:
        """[n, d] -> [n, d]."""
        return F.linear(features, self.weight, self.bias)
