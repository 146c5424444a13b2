"""What every mapping offers."""

from torch import nn


class Mapping(nn.Module):
    """Between backbone and head: `forward(features [n, d]) -> [n, d']`.

    Args:
        num_features: d; the head is built for `num_outputs`, which is d' (here d).
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_outputs = num_features
