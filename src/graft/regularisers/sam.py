"""SAM: sharpness-aware minimisation."""

from dataclasses import dataclass
from typing import ClassVar

from graft.errors import UserError
from graft.regularisers.base import Beginning, Need, Regulariser, Term


@dataclass(frozen=True)
class SAM(Regulariser):
    """Steps by the gradient at the point within `rho` of the weights where the loss is largest (`graft.sharpness`).

    Two passes forward and backward a step, under any optimizer.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"single_pass", "unscaled_gradients", "whole_batch"})

    rho: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 < self.rho < float("inf"):
            raise UserError(f"rho={self.rho!r}; expected a distance above 0")

    def begin(self, beginning: Beginning) -> Term | None:
        """Nothing is added to the loss."""
        return None
