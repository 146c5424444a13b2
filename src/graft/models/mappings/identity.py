"""No mapping."""

from torch import Tensor

from graft.models.mappings.base import Mapping


class IdentityMapping(Mapping):
    """Features as they are."""

    def forward(self, features: Tensor) -> Tensor:
        """Features [n, d] unchanged."""
        return features
