"""BNM: batch nuclear-norm maximisation, predictions on the target that are sure and of many classes."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softmax

from graft.adaptation.base import SPREADS, Adaptation
from graft.regularisers.base import Step, full_precision


def nuclear_norm(logits: Tensor) -> Tensor:
    """||P||_* / n, a scalar, for the probabilities P of logits [n, k]: the sum of singular values over n.

    Cui et al., "Towards discriminability and diversity: batch nuclear-norm maximization under label insufficient
    situations", CVPR 2020, whose loss is its negative. In float32 at least.
    """
    return torch.linalg.svdvals(softmax(full_precision(logits), dim=1)).sum() / len(logits)


@dataclass(frozen=True)
class BNM(Adaptation):
    """Maximises the nuclear norm of each batch of predictions on the target."""

    closed_set: ClassVar[str] = SPREADS

    def loss(self, step: Step) -> Tensor:
        """Minus the `nuclear_norm` of the predictions on the target."""
        return -nuclear_norm(step.required_target().outputs.logits)
