"""Minimum entropy: predictions on the target become sure."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import log_softmax

from graft.adaptation.base import Adaptation
from graft.regularisers.base import Step, full_precision


def entropies(logits: Tensor) -> Tensor:
    """-sum_k p_k log p_k [n] of p = softmax(logits [n, k]), in float32 at least.

    log p comes from the log-sum-exp of the logits and is finite where p rounds to 0, so that value and gradient are
    finite at one-hot predictions.
    """
    log_p = log_softmax(full_precision(logits), dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


@dataclass(frozen=True)
class MinimumEntropy(Adaptation):
    """Minimises the mean entropy of the predictions on the target.

    Grandvalet and Bengio, "Semi-supervised learning by entropy minimization", NIPS 2004.
    """

    weight: float = 0.1
    gamma: float | None = 10.0

    def loss(self, step: Step) -> Tensor:
        """Mean of the `entropies` of the predictions on the target."""
        return entropies(step.required_target().outputs.logits).mean()
