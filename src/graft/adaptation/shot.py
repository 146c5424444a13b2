"""SHOT: information maximisation, and cross-entropy on pseudo-labels from class centroids."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot, softmax

from graft.adaptation.bank import Bank, BankTerm, bank_for
from graft.adaptation.base import SPREADS, Adaptation
from graft.adaptation.shot_im import information_maximisation
from graft.regularisers.base import Beginning, Step, Term, check_weights, full_precision

NONE = -1  # the label of an image that has none


def centroid_labels(features: Tensor, p: Tensor) -> Tensor:
    """The class [n] whose centroid is closest in cosine distance to each of the features [n, d].

    Liang et al., "Do we really need to access the source data?", ICML 2020, equations 4 to 6: centroids are means
    weighted by the probabilities p [n, k], and once more by the labels that those give. A class that no sample is
    labelled with is no candidate the second time.
    """
    labels = _closest(features, p)
    return _closest(features, one_hot(labels, p.shape[1]).to(p.dtype))


def _closest(features: Tensor, weights: Tensor) -> Tensor:
    """The class [n] of the centroid, under weights [n, k], that is closest to each of the features [n, d]."""
    centroids = normalize(weights.T @ features, dim=1)  # a sum points where a mean does
    similarity = features @ centroids.T  # the length of a feature does not change which is closest
    return similarity.masked_fill(weights.sum(dim=0) == 0, -torch.inf).argmax(dim=1)


def with_one(features: Tensor) -> Tensor:
    """Features [n, d] with a 1 appended, in float32 at least: [n, d + 1]."""
    features = full_precision(features)
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)


@dataclass(frozen=True)
class SHOT(Adaptation):
    """SHOT-IM with pseudo-labels.

    Where the paper computes features and probabilities of all images at the beginning of each epoch, here a bank keeps
    those of the steps. Whenever as many images as there are have passed, an epoch of the target, all images that the
    bank holds get new labels; before the first epoch is over there are none. As in the authors' published code, a 1 is
    appended to features, which are normalised. The paper keeps the head of the source as it is: use a strategy that
    does not train it.

    Args:
        weight, gamma: of the sum of both terms.
        pseudo_weight: of the cross-entropy on pseudo-labels.
    """

    closed_set: ClassVar[str] = SPREADS
    source_free: ClassVar[bool] = True

    pseudo_weight: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(pseudo_weight=self.pseudo_weight)

    def begin(self, beginning: Beginning) -> Term:
        """With an empty bank."""
        return _SHOTTerm(self, bank_for(beginning, num_extra=1))


class _SHOTTerm(BankTerm):
    settings: SHOT

    def __init__(self, settings: SHOT, bank: Bank) -> None:
        super().__init__(settings, bank)
        self.register_buffer("labels", torch.full((len(bank.seen),), NONE))
        self.register_buffer("num_passed", torch.zeros((), dtype=torch.int64))  # images since the labels were made
        self.labels: Tensor
        self.num_passed: Tensor

    def forward(self, step: Step) -> Tensor:
        target = step.required_target()
        logits = full_precision(target.outputs.logits)
        if self.num_passed >= len(self.labels):
            self._label()
        labels = self.labels[target.positions]
        # A mean over the labelled, which is 0 rather than 0 / 0 where there are none.
        pseudo = cross_entropy(logits, labels, ignore_index=NONE, reduction="sum") / (labels != NONE).sum().clamp(min=1)
        self.bank.put(target.positions, with_one(target.outputs.features), softmax(logits, dim=1))
        self.num_passed += len(labels)
        total = information_maximisation(logits) + self.settings.pseudo_weight * pseudo
        return self.settings.ramp(step.progress) * total

    @torch.no_grad()
    def _label(self) -> None:
        """New labels for all that the bank holds."""
        seen = self.bank.seen
        self.labels[seen] = centroid_labels(self.bank.features[seen], self.bank.p[seen])
        self.num_passed.zero_()
