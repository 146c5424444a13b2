"""What every head offers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """Turns features into logits: `forward(features [n, d]) -> logits [n, k]`.

    Args:
        num_features: d.
        num_classes: k.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_classes = num_classes


class ClosedFormHead(Head):
    """A head that is solved, not stepped: its weights are buffers, zero until `solve` has run."""

    weight: Tensor  # [k, d]
    bias: Tensor  # [k]

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.register_buffer("weight", torch.zeros(num_classes, num_features))
        self.register_buffer("bias", torch.zeros(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        """Logits [n, k] of features [n, d]."""
        return F.linear(features, self.weight, self.bias)

    def solve(self, features: Tensor, labels: Tensor) -> None:
        """Set the weights from the features [n, d] and class indices [n] of the training set."""
        raise NotImplementedError
