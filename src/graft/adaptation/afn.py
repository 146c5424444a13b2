"""AFN: features of growing norm in both domains."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graft.adaptation.base import Adaptation
from graft.errors import UserError
from graft.regularisers.base import Beginning, Need, Step, Term, full_precision


def stepwise_norm(features: Tensor, increase: float = 1.0) -> Tensor:
    """Mean over n of (||f|| - (||f||_before + increase))^2, a scalar, of features f [n, d]; `before` takes no gradient.

    Xu et al., "Larger norm more transferable: an adaptive feature norm approach for unsupervised domain adaptation",
    ICCV 2019. Its value is increase^2 whatever the features; its gradient makes the norms grow.
    """
    norms = torch.linalg.vector_norm(full_precision(features), dim=1)
    return (norms - (norms.detach() + increase)).square().mean()


@dataclass(frozen=True)
class AFN(Adaptation):
    """Each step asks of every feature vector a norm that is larger by a fixed increase (stepwise AFN).

    Args:
        increase: of the norm.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features"})

    weight: float = 0.05
    increase: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.increase < torch.inf:
            raise UserError(f"increase={self.increase!r}; expected a number above 0")

    def begin(self, beginning: Beginning) -> Term:
        """Nothing is learned beside the network."""
        return _AFNTerm(self)


class _AFNTerm(Term):
    def __init__(self, settings: AFN) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, step: Step) -> Tensor:
        both = step.outputs.features, step.required_target().outputs.features
        source, target = (stepwise_norm(features, self.settings.increase) for features in both)
        return self.settings.ramp(step.progress) * (source + target)
