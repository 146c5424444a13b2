"""A hidden layer before the linear one."""

from torch import Tensor, nn

from graft.errors import UserError
from graft.models.heads.base import Head


class MlpHead(Head):
    """Linear, GELU, dropout, linear.

    Args:
        num_features, num_classes: d and k.
        num_hidden: width of the hidden layer.
        dropout: probability of dropping a hidden unit, in [0, 1).

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(self, num_features: int, num_classes: int, num_hidden: int = 256, dropout: float = 0.0) -> None:
        if num_hidden < 1:
            raise UserError(f"head.num_hidden={num_hidden}: expected at least 1")
        if not 0 <= dropout < 1:
            raise UserError(f"head.dropout={dropout}: expected a probability in [0, 1)")
        super().__init__(num_features, num_classes)
        self.hidden = nn.Linear(num_features, num_hidden)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(num_hidden, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [n, k] of features [n, d]."""
        hidden = self.dropout(self.activation(self.hidden(features)))
        logits: Tensor = self.linear(hidden)
        return logits
