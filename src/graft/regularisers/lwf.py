"""LwF: learning without forgetting."""

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import linear, log_softmax, softmax

from graft.errors import UserError
from graft.models.heads.linear import LinearHead
from graft.regularisers.base import Beginning, Fixed, Need, Regulariser, Step, Term, check_weights, full_precision


def knowledge_distillation(logits: Tensor, start: Tensor, temperature: float = 2.0) -> Tensor:
    """Mean over n of -sum_k softmax(start / T)_k log softmax(logits / T)_k, a scalar.

    Li and Hoiem, "Learning without forgetting", ECCV 2016, equations 2 and 3: raising probabilities to 1/T and
    normalising them is a softmax of logits / T.

    `logits` and `start` are [n, k_source]: what the source head says now, and what it said when the stage began.
    """
    targets = softmax(full_precision(start) / temperature, dim=1)
    return -(targets * log_softmax(full_precision(logits) / temperature, dim=1)).sum(dim=1).mean()


@dataclass(frozen=True)
class LwF(Regulariser):
    """Keeps what the source head says of the target's images as it was; the source head is trained along."""

    needs: ClassVar[frozenset[Need]] = frozenset(
        {"source_weights", "source_head", "starting_network", "trained_features"}
    )

    weight: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)
        if not self.temperature > 0.0:
            raise UserError(f"temperature={self.temperature!r}; expected a number above 0")

    def begin(self, beginning: Beginning) -> Term:
        """With the source head, twice: as it was, and to be trained."""
        return _LwFTerm(self, beginning.required_origin().head)


class _LwFTerm(Term):
    def __init__(self, settings: LwF, source_head: LinearHead) -> None:
        super().__init__()
        self.settings = settings
        self.source_head = deepcopy(source_head).requires_grad_(True)
        self.start = Fixed(source_head.linear.state_dict())

    def forward(self, step: Step) -> Tensor:
        assert step.start is not None
        weight, bias = self.start["weight"], self.start["bias"]
        logits = self.source_head(step.trace.backbone_features.to(weight.dtype))
        start = linear(step.start.backbone_features.to(weight.dtype), weight, bias)
        return self.settings.weight * knowledge_distillation(logits, start, self.settings.temperature)
