"""ATDOC: cross-entropy on pseudo-labels that the neighbours of each image agree upon."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, softmax

from graft.adaptation.bank import BankTerm, Neighbourly, bank_for
from graft.adaptation.base import SPREADS
from graft.regularisers.base import Beginning, Step, Term, full_precision


def sharpened(logits: Tensor) -> Tensor:
    """p_ik^2 / sum_i p_ik^2, [n, k], of p = softmax(logits [n, k]): sharper, and with as much weight on every class.

    Written as a softmax over n, it is finite where a class has no probability at all.
    """
    return softmax(2.0 * log_softmax(full_precision(logits), dim=1), dim=0)


def weighted_cross_entropy(logits: Tensor, votes: Tensor) -> Tensor:
    """Cross-entropy on the classes with the most votes, weighted by these over their sum, a scalar; 0 without votes.

    Liang et al., "Domain adaptation with auxiliary target domain-oriented classifier", CVPR 2021, neighbourhood
    aggregation.
    `logits` and `votes` are [n, k].
    """
    weights, labels = votes.max(dim=1)
    losses = cross_entropy(full_precision(logits), labels, reduction="none")
    total = weights.sum()
    return (weights * losses).sum() / total.where(total > 0, 1.0)


@dataclass(frozen=True)
class ATDOC(Neighbourly):
    """Neighbourhood aggregation: each image is trained on the mean of what was said of its nearest neighbours.

    Features and sharpened probabilities of the target's images are kept in a bank, as the steps made them; images not
    seen so far are nobody's neighbours, while the authors' published code gives them random features.
    """

    closed_set: ClassVar[str] = SPREADS

    weight: float = 0.2
    gamma: float | None = 10.0

    def begin(self, beginning: Beginning) -> Term:
        """With an empty bank."""
        return _ATDOCTerm(self, bank_for(beginning))


class _ATDOCTerm(BankTerm):
    settings: ATDOC

    def forward(self, step: Step) -> Tensor:
        target = step.required_target()
        logits, features = target.outputs.logits, target.outputs.features.detach()
        near = self.bank.nearest(features, target.positions, self.settings.num_neighbours)
        votes = (self.bank.p[near.positions] * near.there[..., None]).sum(dim=1) / self.settings.num_neighbours
        loss = weighted_cross_entropy(logits, votes)
        self.bank.put(target.positions, features, sharpened(logits.detach()))
        return self.settings.ramp(step.progress) * loss
