"""Self-training: the target's images are trained on what the network is sure of."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy, softmax

from graft.adaptation.base import Adaptation
from graft.errors import UserError
from graft.regularisers.base import Step, full_precision


def confident_cross_entropy(logits: Tensor, guide: Tensor, threshold: float) -> Tensor:
    """1/n times the cross-entropy on the guide's classes, summed where it gives them the threshold or more, a scalar.

    Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence", NeurIPS 2020,
    equation 4. `logits` and the guide's logits are [n, k]; the guide takes no gradient.
    """
    confidence, labels = softmax(full_precision(guide.detach()), dim=1).max(dim=1)
    losses = cross_entropy(full_precision(logits), labels, reduction="none")
    return (losses * (confidence >= threshold)).mean()


@dataclass(frozen=True)
class SelfTraining(Adaptation):
    """Cross-entropy on the network's own predictions of the same view, as far as they are sure.

    Lee, "Pseudo-label: the simple and efficient semi-supervised learning method for deep neural networks", ICML 2013
    workshops, equation 15, with a threshold.
    """

    gamma: float | None = 10.0
    threshold: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threshold(self.threshold)

    def loss(self, step: Step) -> Tensor:
        """`confident_cross_entropy` of the predictions on the target with themselves as the guide."""
        logits = step.required_target().outputs.logits
        return confident_cross_entropy(logits, logits, self.threshold)


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is no probability.

    Raises:
        UserError: with what was given.
    """
    if not 0.0 <= threshold <= 1.0:
        raise UserError(f"threshold={threshold!r}; expected a number from 0 to 1")
