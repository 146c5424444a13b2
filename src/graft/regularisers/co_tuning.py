"""Co-Tuning: the source head trained along, on what the target's classes look like to it."""

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from graft.features import Prefix, extract
from graft.models.heads.linear import LinearHead
from graft.regularisers.base import Beginning, Fixed, Need, Regulariser, Step, Term, check_weights, full_precision


def class_relationship(source_logits: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """p(source class | target class), [k, k_source]: the mean of softmax(logits) over the samples of each class.

    You et al., "Co-tuning for transfer learning", NeurIPS 2020, section 3.2, the direct approach.

    `source_logits` is [n, k_source], what the source head says of the target's training samples; `y` is [n] class
    indices. Every class must have a sample.
    """
    members = torch.nn.functional.one_hot(y, num_classes).to(source_logits.dtype)  # [n, k]
    return members.T @ softmax(source_logits, dim=1) / members.sum(dim=0)[:, None]


def co_tuning(source_logits: Tensor, y: Tensor, relationship: Tensor) -> Tensor:
    """Mean over n of -sum_s p(s | y) log softmax(source logits)_s, a scalar (the same paper, equation 3).

    `source_logits` is [n, k_source]; `y` is [n] class indices or [n, k] class probabilities; `relationship` is
    [k, k_source].
    """
    relationship = full_precision(relationship)
    targets = y.to(relationship.dtype) @ relationship if y.ndim == 2 else relationship[y]
    return -(targets * log_softmax(full_precision(source_logits), dim=1)).sum(dim=1).mean()


@dataclass(frozen=True)
class CoTuning(Regulariser):
    """Trains the source head along, on the source classes that each target class resembles."""

    needs: ClassVar[frozenset[Need]] = frozenset({"source_weights", "source_head", "trained_features"})

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)

    def begin(self, beginning: Beginning) -> Term:
        """With the relationship of the classes, from the starting network's features of the target's training set."""
        head, domain = beginning.required_origin().head, beginning.domain
        with torch.no_grad():
            features = extract(Prefix.whole(beginning.network.backbone), domain, "train", beginning.how)
            logits = head(features.to(head.linear.weight.dtype))
        labels = domain.datasets["train"].labels
        relationship = class_relationship(logits, labels, domain.num_classes)
        return _CoTuningTerm(self.weight, head, relationship)


class _CoTuningTerm(Term):
    def __init__(self, weight: float, source_head: LinearHead, relationship: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.source_head = deepcopy(source_head).requires_grad_(True)
        self.fixed = Fixed({"relationship": relationship})

    def forward(self, step: Step) -> Tensor:
        logits = self.source_head(step.trace.backbone_features.to(self.source_head.linear.weight.dtype))
        return self.weight * co_tuning(logits, step.y, self.fixed["relationship"])
