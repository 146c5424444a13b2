"""One linear layer."""

from torch import Tensor, nn

from graft.models.heads.base import Head


class LinearHead(Head):
    """Logits W f + b."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.linear = nn.Linear(num_features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [n, k] of features [n, d]."""
        logits: Tensor = self.linear(features)
        return logits
