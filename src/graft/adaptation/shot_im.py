"""SHOT-IM: information maximisation, predictions on the target that are sure one by one and varied together."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import log_softmax

from graft.adaptation.base import SPREADS, Adaptation
from graft.adaptation.entropy import entropies
from graft.regularisers.base import Step, full_precision


def diversity(logits: Tensor) -> Tensor:
    """Entropy of the mean prediction over n, a scalar, of logits [n, k], in float32 at least and finite at one-hot."""
    log_mean = log_softmax(full_precision(logits), dim=1).logsumexp(dim=0) - math.log(len(logits))
    return -(log_mean.exp() * log_mean).sum()


def information_maximisation(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions minus the entropy of their mean, a scalar from -log k to 0, of logits [n, k].

    Liang et al., "Do we really need to access the source data?", ICML 2020, equation 3: L_ent + L_div.
    """
    return entropies(logits).mean() - diversity(logits)


@dataclass(frozen=True)
class SHOTIM(Adaptation):
    """Maximises the information that predictions hold about the target's images.

    The paper keeps the head of the source as it is: strategy=freeze_head.
    """

    closed_set: ClassVar[str] = SPREADS
    source_free: ClassVar[bool] = True

    def loss(self, step: Step) -> Tensor:
        """`information_maximisation` of the predictions on the target."""
        return information_maximisation(step.required_target().outputs.logits)
