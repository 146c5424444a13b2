"""BSP: batch spectral penalisation, beside an adversarial method."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graft.adaptation.base import Adaptation
from graft.errors import UserError
from graft.regularisers.base import Need, Step, full_precision


def spectral_penalty(features: Tensor, num_values: int = 1) -> Tensor:
    """The sum of the squares of the `num_values` largest singular values of the features [n, d], a scalar.

    Chen et al., "Transferability vs. discriminability: batch spectral penalization for adversarial domain adaptation",
    ICML 2019. A matrix has min(n, d) singular values; all count where there are fewer than asked for. In
    float32 at least.
    """
    values = torch.linalg.svdvals(full_precision(features))  # descending
    return values[:num_values].square().sum()


@dataclass(frozen=True)
class BSP(Adaptation):
    """Keeps few directions from dominating the features of either domain; to be used with `dann` or `cdan`.

    Args:
        num_values: singular values of each domain that are penalised.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features"})

    weight: float = 0.0001
    num_values: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_values < 1:
            raise UserError(f"num_values={self.num_values!r}; expected 1 or more")

    def loss(self, step: Step) -> Tensor:
        """`spectral_penalty` of the source's features and of the target's."""
        both = step.outputs.features, step.required_target().outputs.features
        source, target = (spectral_penalty(features, self.num_values) for features in both)
        return source + target
