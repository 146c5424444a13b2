"""Open-set scores: how well known classes are told apart, and images of unknown ones told from them."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softmax

from graft.adaptation.entropy import entropies

Confidence = Literal["max_probability", "entropy"]


def confidence(logits: Tensor, kind: Confidence) -> Tensor:
    """How sure each prediction of logits [n, k] is, in [0, 1]: [n].

    "max_probability" (Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples",
    ICLR 2017), or "entropy": 1 - H / log k.
    """
    if kind == "max_probability":
        return softmax(logits, dim=1).amax(dim=1)
    return 1.0 - entropies(logits) / math.log(logits.shape[1])


def open_set_scores(
    known: tuple[Tensor, Tensor], unknown_logits: Tensor, kind: Confidence, threshold: float
) -> dict[str, float]:
    """Accuracies where every image whose prediction is less sure than the threshold is called unknown.

    Bucci et al., "On the effectiveness of image rotation for open set domain adaptation", ECCV 2020, section 5.1:
    `known_accuracy` (OS*) is the mean over classes of the share of their images that are called by their class,
    `unknown_accuracy` (UNK) the share of images of unknown classes that are called unknown, and `h_score` (HOS) the
    harmonic mean of the two, 0 where one of them is.

    Args:
        known: logits [n, k] and labels [n] of images of known classes.
        unknown_logits: [m, k], of images of unknown classes.
        kind: of confidence.
        threshold: in [0, 1].
    """
    logits, labels = known
    right = (logits.argmax(dim=1) == labels) & (confidence(logits, kind) >= threshold)
    of_known = torch.stack([right[labels == label].double().mean() for label in labels.unique()]).mean().item()
    of_unknown = (confidence(unknown_logits, kind) < threshold).double().mean().item()
    total = of_known + of_unknown
    return {
        "known_accuracy": of_known,
        "unknown_accuracy": of_unknown,
        "h_score": 2.0 * of_known * of_unknown / total if total else 0.0,
    }
