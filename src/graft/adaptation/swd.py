"""SWD: two classifiers, as in MCD, with the sliced Wasserstein distance between their predictions."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from graft.adaptation.base import ALIGNS, Adaptation
from graft.adaptation.two_classifiers import TwoClassifiersTerm, second_head
from graft.errors import UserError
from graft.regularisers.base import Beginning, Need, Term


def sliced_wasserstein(first: Tensor, second: Tensor, directions: Tensor) -> Tensor:
    """Mean squared difference of the sorted projections of samples [n, k] on unit vectors [k, m], a scalar.

    That is the squared 2-Wasserstein distance along each direction, averaged (Lee et al., "Sliced Wasserstein
    discrepancy for unsupervised domain adaptation", CVPR 2019).
    """
    sorted_first, sorted_second = (torch.sort(samples @ directions, dim=0).values for samples in (first, second))
    return (sorted_first - sorted_second).square().mean()


def sliced_discrepancy(first: Tensor, second: Tensor, num_projections: int) -> Tensor:
    """`sliced_wasserstein` of class probabilities [n, k] along directions drawn uniformly by the global generator."""
    drawn = torch.randn(first.shape[1], num_projections, dtype=first.dtype, device=first.device)
    return sliced_wasserstein(first, second, normalize(drawn, dim=0))


@dataclass(frozen=True)
class SWD(Adaptation):
    """MCD with another discrepancy, in one step by gradient reversal as there.

    Args:
        num_projections: directions drawn in each step.
    """

    closed_set: ClassVar[str] = ALIGNS
    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features"})

    gamma: float | None = 10.0
    num_projections: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_projections < 1:
            raise UserError(f"num_projections={self.num_projections!r}; expected 1 or more")

    def begin(self, beginning: Beginning) -> Term:
        """With a second head whose initial weights are drawn from the stage's seed."""
        discrepancy = partial(sliced_discrepancy, num_projections=self.num_projections)
        return TwoClassifiersTerm(self, second_head(beginning, "swd"), discrepancy)
