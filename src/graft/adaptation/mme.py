"""MME: minimax entropy, the head against the features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graft.adaptation.base import Adaptation
from graft.adaptation.entropy import entropies
from graft.adaptation.reversal import reverse
from graft.adaptation.two_classifiers import classify
from graft.errors import UserError
from graft.models.network import Network
from graft.regularisers.base import Need, Step
from graft.strategies.phases import ResolvedPhase


@dataclass(frozen=True)
class MME(Adaptation):
    """The head maximises the entropy of predictions on the target, what makes the features minimises it.

    Saito et al., "Semi-supervised domain adaptation via minimax entropy", ICCV 2019. In the paper the
    head compares directions (head=cosine), and some of the target's images have labels.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features"})

    weight: float = 0.1

    def check(self, network: Network, phases: Sequence[ResolvedPhase]) -> None:
        """Both sides are trained."""
        super().check(network, phases)
        if "head" not in {group for phase in phases for group in phase.trained_groups}:
            raise UserError("its head maximises entropy, and this strategy does not train the head")

    def loss(self, step: Step) -> Tensor:
        """Minus the mean of the `entropies`, whose gradient the features get reversed."""
        features = reverse(step.required_target().outputs.features, 1.0)
        return -entropies(classify(step.network.head, features)).mean()
