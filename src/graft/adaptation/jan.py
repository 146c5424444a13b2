"""JAN: features and predictions get the same joint distribution in source and target."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softmax

from graft.adaptation.base import ALIGNS, Adaptation
from graft.adaptation.mmd import mmd, multi_kernel, squared_distances
from graft.objectives.supervised import Outputs
from graft.regularisers.base import Step, full_precision

PROBABILITY_BANDWIDTH = 1.68  # of the kernel over class probabilities, as in the authors' code


def joint_kernel(source: Outputs, target: Outputs) -> Tensor:
    """The product of a multi-kernel over features and exp(-||p_i - p_j||^2 / 1.68) over softmax outputs p.

    [n_s + n_t, n_s + n_t], the source's samples before the target's.
    """
    probabilities = softmax(full_precision(torch.cat([source.logits, target.logits])), dim=1)
    by_class = torch.exp(-squared_distances(probabilities) / PROBABILITY_BANDWIDTH)
    return multi_kernel(torch.cat([source.features, target.features])) * by_class


@dataclass(frozen=True)
class JAN(Adaptation):
    """Minimises the joint maximum mean discrepancy of the features and the predictions on them.

    Long et al., "Deep transfer learning with joint adaptation networks", ICML 2017, by the biased estimate over all
    pairs; the weight grows as there.
    """

    closed_set: ClassVar[str] = ALIGNS

    weight: float = 5.0
    gamma: float | None = 10.0

    def loss(self, step: Step) -> Tensor:
        """`mmd` of the two domains' outputs under their `joint_kernel`."""
        return mmd(joint_kernel(step.outputs, step.required_target().outputs), len(step.y))
