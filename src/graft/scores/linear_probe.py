"""Accuracy of a linear classifier on samples that it was not trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graft.errors import UserError
from graft.models.heads.ridge import principal_axes
from graft.probes import folds_of, logistic_path
from graft.scores.base import class_indices, double

STRENGTHS = (1.0, 0.1, 0.01, 0.001)
TOLERANCE = 1e-4  # of the gradient: which class comes first is settled long before the coefficients are


def linear_probe(features: Tensor, labels: Tensor, num_folds: int = 5, strengths: Sequence[float] = STRENGTHS) -> float:
    """Share of held-out samples that a logistic regression on the others gets right, at its best strength; 0 to 1.

    Every sample is held out once, in one of the folds, over which each class is spread evenly. Features are centred
    and scaled to a mean square of 1, which gives a strength the same meaning for every backbone.

    Args:
        features: [n, d].
        labels: class indices [n].
        num_folds: into how many parts the samples are split; n where there are fewer samples.
        strengths: candidates for the weight of ||W||^2 / 2 beside the mean cross-entropy, all above 0.

    Raises:
        UserError: fewer than two classes, features that are not finite, or a setting out of its range.
    """
    if num_folds < 2:
        raise UserError(f"linear_probe: num_folds={num_folds}; expected 2 or more")
    x = double(features)
    indices, num_classes = class_indices(labels)
    x = standardised(x)
    folds = folds_of(indices, min(num_folds, len(x)))
    hits = torch.zeros(len(strengths), dtype=torch.float64)
    for fold in folds.unique():
        held_out = folds == fold
        heads = logistic_path(x[~held_out], indices[~held_out], num_classes, strengths, TOLERANCE)
        hits += heads.accuracies(x[held_out], indices[held_out]).to(torch.float64) * held_out.sum()
    return float(hits.max().round() / len(x))


def standardised(x: Tensor) -> Tensor:
    """Features [n, d] centred, with a mean square of 1, and turned into the space that they span where n < d."""
    x = x - x.mean(0)
    size = x.square().mean().sqrt()
    x = x / torch.where(size > 0, size, 1.0)
    return principal_axes(x).scores if len(x) < x.shape[1] else x
