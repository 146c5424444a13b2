"""FixMatch: one view of an image is trained on what the network is sure of in another."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graft.adaptation.base import Adaptation
from graft.adaptation.self_training import check_threshold, confident_cross_entropy
from graft.regularisers.base import Need, Step


@dataclass(frozen=True)
class FixMatch(Adaptation):
    """Cross-entropy of a second view on the classes that the first view surely has.

    Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence", NeurIPS 2020. Both
    views are drawn alike, so that neither is the weaker. The second one's pass is one of training.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"second_view"})

    threshold: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threshold(self.threshold)

    def loss(self, step: Step) -> Tensor:
        """`confident_cross_entropy` of the second view with the first one as the guide."""
        target, network = step.required_target(), step.network
        assert target.second is not None
        logits = network.head(network.features(target.second, step.cut))
        return confident_cross_entropy(logits, target.outputs.logits, self.threshold)
