"""Co-Tuning: the source head trained along, on what the target's classes look like to it."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, one_hot, softmax

from graft.data.domain import Domain
from graft.errors import UserError, did_you_mean
from graft.features import Prefix, extract
from graft.models.heads.linear import LinearHead
from graft.probes import folds_of, logistic_path
from graft.regularisers.base import Beginning, Fixed, Need, Regulariser, Step, Term, check_weights, full_precision

LEAST_SCALE, LARGEST_SCALE = 0.01, 100.0  # of logits; where these are all right or all wrong, no scale is best
HALVINGS = 60  # of the interval that holds the best scale
NUM_FOLDS = 5
STRENGTHS = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)  # of the classifier's weight penalty
TOLERANCE = 1e-6  # of its gradient


def calibrating_scale(logits: Tensor, y: Tensor) -> Tensor:
    """The number s in [0.01, 100], a scalar, for which the cross-entropy of s x logits is least.

    Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2, where 1 / s is the temperature. The
    cross-entropy is convex in s, so that its slope, the mean of sum_k p_k z_k - z_y, has at most one root.

    `logits` is [n, k], `y` is [n] class indices.
    """
    z = logits.double()
    own = z.gather(1, y[:, None])[:, 0]
    low, high = (torch.tensor(scale, dtype=z.dtype).log() for scale in (LEAST_SCALE, LARGEST_SCALE))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = ((softmax(middle.exp() * z, dim=1) * z).sum(dim=1) - own).mean()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return high.exp()


def direct_relationship(p: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """p(source class | target class), [k, k_source]: the mean of the probabilities over the samples of each class.

    You et al., "Co-tuning for transfer learning", NeurIPS 2020, section 3.2, the direct approach.

    `p` is [n, k_source], what the calibrated source head says of the target's training samples; `y` is [n] class
    indices. Every class must have a sample.
    """
    members = one_hot(y, num_classes).to(p.dtype)  # [n, k]
    return members.T @ p / members.sum(dim=0)[:, None]


def reverse_relationship(p: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """p(source class | target class), [k, k_source], by Bayes' rule from a classifier from source to target classes.

    The same paper and section, the reverse approach: g learns p(target class | probabilities of source classes), is
    calibrated, and asked about each source class alone; times p(source class), the mean of the probabilities, that is
    the joint distribution, which is normalised for each target class. As in the authors' published code, g is a
    logistic regression whose strength is chosen on held-out samples, on which it is calibrated as well; here each
    sample is held out once, in one of five folds, and the strength with the least cross-entropy is taken.

    Arguments as for `direct_relationship`.
    """
    p = p.double()
    folds = folds_of(y, min(NUM_FOLDS, len(y)))
    held_out = torch.zeros(len(STRENGTHS), len(y), num_classes, dtype=p.dtype)  # logits
    for fold in folds.unique():
        out = folds == fold
        held_out[:, out] = logistic_path(p[~out], y[~out], num_classes, STRENGTHS, TOLERANCE).logits(p[out])
    scales = [calibrating_scale(logits, y) for logits in held_out]
    losses = [cross_entropy(scale * logits, y) for scale, logits in zip(scales, held_out, strict=True)]
    best = int(torch.stack(losses).argmin())
    heads = logistic_path(p, y, num_classes, [STRENGTHS[best]], TOLERANCE)
    of_each_source_class = heads.logits(torch.eye(p.shape[1], dtype=p.dtype))[0]  # [k_source, k]
    joint = softmax(scales[best] * of_each_source_class, dim=1).T * p.mean(dim=0)
    return joint / joint.sum(dim=1, keepdim=True)


RELATIONSHIPS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "direct": direct_relationship,
    "reverse": reverse_relationship,
}


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
    """Trains the source head along, on the source classes that each target class resembles.

    What it says of the target's images before training is calibrated on the source's validation samples.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"source_weights", "source_head", "source_val", "trained_features"})

    weight: float = 1.0
    relationship: str = "direct"

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)
        if self.relationship not in RELATIONSHIPS:
            raise UserError(f"relationship={self.relationship!r}: {did_you_mean(self.relationship, RELATIONSHIPS)}")

    def begin(self, beginning: Beginning) -> Term:
        """With the relationship of the classes, from the starting network's features of the target's training set."""
        origin = beginning.required_origin()
        if not origin.domain.sizes["val"]:
            raise UserError(f"regulariser=co_tuning: {origin.domain.name} has no validation samples to calibrate on")

        @torch.no_grad()
        def source_logits(domain: Domain, split: str) -> Tensor:
            features = extract(Prefix.whole(beginning.network.backbone), domain, split, beginning.how)
            logits: Tensor = origin.head(features.to(origin.head.linear.weight.dtype))
            return logits

        scale = calibrating_scale(source_logits(origin.domain, "val"), origin.domain.datasets["val"].labels)
        p = softmax(scale * source_logits(beginning.domain, "train").double(), dim=1)
        labels, num_classes = beginning.domain.datasets["train"].labels, beginning.domain.num_classes
        relationship = RELATIONSHIPS[self.relationship](p, labels, num_classes)
        return _CoTuningTerm(self.weight, origin.head, relationship.float())


class _CoTuningTerm(Term):
    def __init__(self, weight: float, source_head: LinearHead, relationship: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.source_head = deepcopy(source_head).requires_grad_(True)
        self.fixed = Fixed({"relationship": relationship})

    def forward(self, step: Step) -> Tensor:
        logits = self.source_head(step.trace.backbone_features.to(self.source_head.linear.weight.dtype))
        return self.weight * co_tuning(logits, step.y, self.fixed["relationship"])
