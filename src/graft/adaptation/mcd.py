"""MCD: two classifiers that disagree on the target, and features that let them agree."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graft.adaptation.base import ALIGNS, Adaptation
from graft.adaptation.two_classifiers import TwoClassifiersTerm, second_head
from graft.regularisers.base import Beginning, Need, Term


def classifier_discrepancy(first: Tensor, second: Tensor) -> Tensor:
    """Mean of |first - second|, a scalar, over samples and classes of class probabilities [n, k].

    Saito et al., "Maximum classifier discrepancy for unsupervised domain adaptation", CVPR 2018, section 3.
    """
    return (first - second).abs().mean()


@dataclass(frozen=True)
class MCD(Adaptation):
    """The head and a second head maximise their discrepancy on the target, what makes the features minimises it.

    Saito et al., CVPR 2018. The paper takes three kinds of steps in turn: all on the source's labels, the heads against
    the features, and the features alone, several times. Here they are one step, by gradient reversal, whose coefficient
    is the weight; its ramp leaves the second head time to learn the source's labels.
    """

    closed_set: ClassVar[str] = ALIGNS
    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features"})

    gamma: float | None = 10.0

    def begin(self, beginning: Beginning) -> Term:
        """With a second head whose initial weights are drawn from the stage's seed."""
        return TwoClassifiersTerm(self, second_head(beginning, "mcd"), classifier_discrepancy)
