"""MDD: margin disparity discrepancy between the head and an adversary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from graft.adaptation.base import ALIGNS, Adaptation
from graft.adaptation.reversal import reverse
from graft.adaptation.two_classifiers import classify, second_head
from graft.errors import UserError
from graft.models.heads.linear import LinearHead
from graft.models.network import Network
from graft.regularisers.base import Beginning, Need, Step, Term
from graft.strategies.phases import ResolvedPhase


def disagreement(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over n of -log(1 - p_y), a scalar, with p = softmax(logits [n, k]), for classes y [n]; k is 2 or more.

    1 - p_y is a sum over the other classes, so its logarithm is finite where p_y rounds to 1.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    return (logits.logsumexp(dim=1) - others.logsumexp(dim=1)).mean()


def margin_disparity(source: Tensor, source_y: Tensor, target: Tensor, target_y: Tensor, margin: float = 4.0) -> Tensor:
    """The adversary's loss, a scalar: margin * cross-entropy on the source, -log(1 - p_y) on the target.

    `source` [n_s, k] and `target` [n_t, k] are its logits, `source_y` [n_s] and `target_y` [n_t] the head's classes.
    Zhang et al., "Bridging theory and algorithm for domain adaptation", ICML 2019, section 4: the discrepancy with its
    sign changed; `margin` is the paper's gamma.
    """
    return margin * cross_entropy(source, source_y) + disagreement(target, target_y)


@dataclass(frozen=True)
class MDD(Adaptation):
    """An adversary agrees with the head on the source and not on the target; the features learn against it.

    Zhang et al., ICML 2019. The weight and its ramp are those of the reversal between features and adversary.

    Args:
        margin: how much the source counts against the target in the adversary's loss.
    """

    closed_set: ClassVar[str] = ALIGNS
    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features"})

    weight: float = 0.1
    gamma: float | None = 10.0
    margin: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.margin < torch.inf:
            raise UserError(f"margin={self.margin!r}; expected a number above 0")

    def check(self, network: Network, phases: Sequence[ResolvedPhase]) -> None:
        """There is another class to choose."""
        super().check(network, phases)
        if network.head.num_classes < 2:
            raise UserError("its adversary chooses another class than the head, and there is one class")

    def begin(self, beginning: Beginning) -> Term:
        """With an adversary whose initial weights are drawn from the stage's seed."""
        return _MDDTerm(self, second_head(beginning, "mdd"))


class _MDDTerm(Term):
    def __init__(self, settings: MDD, adversary: LinearHead) -> None:
        super().__init__()
        self.settings = settings
        self.adversary = adversary

    def forward(self, step: Step) -> Tensor:
        coefficient = self.settings.ramp(step.progress)
        both = step.outputs, step.required_target().outputs
        source, target = (classify(self.adversary, reverse(outputs.features, coefficient)) for outputs in both)
        source_y, target_y = (outputs.logits.argmax(dim=1) for outputs in both)
        return margin_disparity(source, source_y, target, target_y, self.settings.margin)
