"""AFN: features of growing norm in both domains."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graft.adaptation.base import Adaptation
from graft.errors import UserError
from graft.regularisers.base import Need, Step, full_precision


def stepwise_norm(features: Tensor, increase: float = 1.0) -> Tensor:
    """Mean over n of (||f|| - (||f||_before + increase))^2, a scalar, of features f [n, d]; `before` takes no gradient.

    Xu et al., "Larger norm more transferable: an adaptive feature norm approach for unsupervised domain adaptation",
    ICCV 2019. Its value is increase^2 whatever the features; its gradient makes the norms grow.
    """
    norms = torch.linalg.vector_norm(full_precision(features), dim=1)
    return (norms - (norms.detach() + increase)).square().mean()


def hard_norm(features: Tensor, radius: float = 25.0) -> Tensor:
    """(mean over n of ||f|| - radius)^2, a scalar, of features f [n, d] (Xu et al., ICCV 2019: hard AFN)."""
    return (torch.linalg.vector_norm(full_precision(features), dim=1).mean() - radius).square()


@dataclass(frozen=True)
class AFN(Adaptation):
    """Asks for larger feature norms in both domains: of one radius on average (hard AFN), or step by step.

    Stepwise AFN asks of every feature vector a norm that is larger by a fixed increase, for ever. Nothing brings norms
    back that grew by more, as they do by the steps of Adam, whose length does not depend on the gradient's: it is for
    optimizer=sgd, as in the paper.

    Args:
        radius: of hard AFN; None for stepwise AFN.
        increase: of the norm, in stepwise AFN.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features"})

    weight: float = 0.05
    radius: float | None = 25.0
    increase: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius is not None and not 0.0 < self.radius < torch.inf:
            raise UserError(f"radius={self.radius!r}; expected a number above 0, or null for stepwise AFN")
        if not 0.0 < self.increase < torch.inf:
            raise UserError(f"increase={self.increase!r}; expected a number above 0")

    def loss(self, step: Step) -> Tensor:
        """The norm's loss of the source's features and of the target's."""
        source, target = step.outputs.features, step.required_target().outputs.features
        return self._norm_loss(source) + self._norm_loss(target)

    def _norm_loss(self, features: Tensor) -> Tensor:
        if self.radius is None:
            return stepwise_norm(features, self.increase)
        return hard_norm(features, self.radius)
