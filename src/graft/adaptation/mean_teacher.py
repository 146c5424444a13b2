"""Mean teacher: the network agrees with an average of itself on another view of the target's images."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softmax

from graft.adaptation.base import Adaptation
from graft.errors import UserError
from graft.models.network import Network
from graft.regularisers.base import Beginning, Need, Step, Term, full_precision
from graft.regularisers.bi_tuning import averaged, follow, take_over


def consistency(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean over n and k of the squared difference of probabilities, a scalar; the teacher's logits take no gradient.

    Tarvainen and Valpola, "Mean teachers are better role models", NIPS 2017, section 3, the distance J. `logits` and
    `teacher` are [n, k].
    """
    difference = softmax(full_precision(logits), dim=1) - softmax(full_precision(teacher.detach()), dim=1)
    return difference.square().mean()


@dataclass(frozen=True)
class MeanTeacher(Adaptation):
    """Consistency with an exponential moving average of the network.

    French et al., "Self-ensembling for visual domain adaptation", ICLR 2018. The teacher sees the second view, in eval
    mode and with the network's own norm statistics, so that no pass of its changes any. Its weights are buffers: they
    are in the checkpoints and no optimiser has them.

    Args:
        weight, gamma: of the consistency.
        momentum: share of the average that remains in each step of the optimizer, which several batches may share.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"second_view"})

    weight: float = 3.0
    gamma: float | None = 10.0
    momentum: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.momentum <= 1.0:
            raise UserError(f"momentum={self.momentum!r}; expected a number from 0 to 1")

    def begin(self, beginning: Beginning) -> Term:
        """With a copy of the network as the teacher."""
        return _MeanTeacherTerm(self, averaged(beginning.network))


class _MeanTeacherTerm(Term):
    def __init__(self, settings: MeanTeacher, teacher: Network) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher

    def forward(self, step: Step) -> Tensor:
        target = step.required_target()
        assert target.second is not None
        take_over(self.teacher, step.network)
        self.teacher.eval()
        with torch.no_grad():
            logits = self.teacher.head(self.teacher.features(target.second, step.cut))
        return self.settings.ramp(step.progress) * consistency(target.outputs.logits, logits)

    def after_step(self, network: Network, step: int, num_steps: int) -> None:
        follow(self.teacher, network, self.settings.momentum)
