"""Feature distillation: the starting network's features as hints."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graft.regularisers.base import Beginning, Need, Regulariser, Step, Term, check_weights, full_precision


def feature_distillation(features: Tensor, start: Tensor) -> Tensor:
    """Mean over n of 1/2 ||f - f0||^2, a scalar, for features f and the starting network's f0, both [n, d].

    Romero et al., "FitNets: hints for thin deep nets", ICLR 2015, equation 3, with the network of before as the teacher
    and no regressor, since both have as many features.
    """
    return (full_precision(features) - full_precision(start)).square().sum(dim=1).mean() / 2


@dataclass(frozen=True)
class FeatureDistillation(Regulariser):
    """Keeps the backbone's features of each image near those that the starting network has for it."""

    needs: ClassVar[frozenset[Need]] = frozenset({"source_weights", "starting_network", "trained_features"})

    weight: float = 0.0003

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)

    def begin(self, beginning: Beginning) -> Term:
        """The starting network's features come with each step."""
        return _FeatureDistillationTerm(self)


class _FeatureDistillationTerm(Term):
    def __init__(self, settings: FeatureDistillation) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, step: Step) -> Tensor:
        assert step.start is not None
        features = step.trace.backbone_features, step.start.backbone_features
        return self.settings.weight * feature_distillation(*features)
