"""A learnt affine map that differs from the identity by a matrix of low rank."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graft.errors import UserError
from graft.models.mappings.base import Mapping


class LowRankMapping(Mapping):
    """g(f) = f + U V f + b with U [d, r] zero at the start, so that g is the identity there (after Hu et al. 2022).

    Args:
        num_features: d.
        rank: r, between 1 and d.

    Raises:
        UserError: the rank is out of range.
    """

    def __init__(self, num_features: int, rank: int = 8) -> None:
        if not 1 <= rank <= num_features:
            raise UserError(f"mapping.rank={rank}: expected 1 to {num_features}, the number of features")
        super().__init__(num_features)
        self.down = nn.Parameter(torch.randn(rank, num_features) / num_features**0.5)
        self.up = nn.Parameter(torch.zeros(num_features, rank))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, features: Tensor) -> Tensor:
        """[n, d] -> [n, d]."""
        return features + F.linear(F.linear(features, self.down), self.up, self.bias)
