"""Accuracy of a vote of the nearest neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor

from graft.errors import UserError
from graft.scores.base import class_indices, double

ROWS_AT_ONCE = 1024  # samples whose similarities to all others are held together


def knn(features: Tensor, labels: Tensor, num_neighbours: int = 20, temperature: float = 0.07) -> float:
    """Share of the samples whose class the nearest of the other samples vote for; from 0 to 1.

    Each sample is left out in turn. Nearness is cosine similarity, and a neighbour's vote counts
    exp(similarity / temperature) (Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", CVPR 2018, section 3.4).

    Args:
        features: [n, d].
        labels: class indices [n].
        num_neighbours: how many vote; all others where there are fewer.
        temperature: above 0.

    Raises:
        UserError: fewer than two classes, features that are not finite, or a setting out of its range.
    """
    if num_neighbours < 1:
        raise UserError(f"knn: num_neighbours={num_neighbours}; expected 1 or more")
    if temperature <= 0:
        raise UserError(f"knn: temperature={temperature}; expected a number above 0")
    x = F.normalize(double(features), dim=1)
    indices, num_classes = class_indices(labels)
    hits = 0
    for rows in torch.arange(len(x)).split(ROWS_AT_ONCE):
        similarities = x[rows] @ x.T
        similarities[torch.arange(len(rows)), rows] = -torch.inf  # no sample is its own neighbour
        nearest = similarities.topk(min(num_neighbours, len(x) - 1), dim=1)
        weights = ((nearest.values - 1) / temperature).exp()  # less 1, the highest similarity: nothing overflows
        votes = x.new_zeros(len(rows), num_classes).scatter_add_(1, indices[nearest.indices], weights)
        hits += int((votes.argmax(1) == indices[rows]).sum())
    return hits / len(x)
