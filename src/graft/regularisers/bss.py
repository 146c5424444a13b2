"""BSS: batch spectral shrinkage."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graft.errors import UserError
from graft.regularisers.base import Beginning, Need, Regulariser, Step, Term, check_weights, full_precision


def batch_spectral_shrinkage(features: Tensor, num_values: int = 1) -> Tensor:
    """The sum of the squares of the `num_values` smallest singular values of the features [n, d], a scalar.

    Chen et al., "Catastrophic forgetting meets negative transfer: batch spectral shrinkage for safe transfer learning",
    NeurIPS 2019, equation 4. A matrix has min(n, d) singular values; all count where there are fewer than asked for.
    In float32 at least.
    """
    values = torch.linalg.svdvals(full_precision(features))  # descending
    return values[-num_values:].square().sum()


@dataclass(frozen=True)
class BSS(Regulariser):
    """Suppresses directions that a batch's features hardly use, which are those that transfer least."""

    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features", "whole_batch"})

    weight: float = 0.001
    num_values: int = 1

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)
        if self.num_values < 1:
            raise UserError(f"num_values={self.num_values}; expected 1 or more")

    def begin(self, beginning: Beginning) -> Term:
        """Needs nothing from before."""
        return _BSSTerm(self)


class _BSSTerm(Term):
    def __init__(self, settings: BSS) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, step: Step) -> Tensor:
        return self.settings.weight * batch_spectral_shrinkage(step.outputs.features, self.settings.num_values)
