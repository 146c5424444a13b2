"""A linear layer whose rows have directions and lengths of their own."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from graft.models.heads.base import Head


class WeightNormHead(Head):
    """Logits l_k w_k / ||w_k|| f + b_k, with direction w_k and length l_k learnt separately.

    Salimans and Kingma, "Weight normalization", NIPS 2016, equation 2; the head of SHOT (Liang et al., ICML 2020). It
    starts as a linear layer with Xavier-normal weights and no bias, as in the authors' published code.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.direction = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_classes, num_features)))
        self.length = nn.Parameter(torch.linalg.vector_norm(self.direction.detach(), dim=1))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        """Logits [n, k] of features [n, d]."""
        return linear(features, self.length[:, None] * normalize(self.direction), self.bias)
