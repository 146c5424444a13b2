"""LEEP: the likelihood of the target's labels under the source's classifier."""

import torch
from torch import Tensor

from graft.scores.base import class_indices, double


def leep(source_probabilities: Tensor, labels: Tensor) -> float:
    """Mean log-likelihood of the labels when each is guessed by way of the source's classes; at most 0.

    With theta(x)_z the source's probability of its class z, P(y, z) = 1/n sum_{i: y_i = y} theta(x_i)_z and
    P(y | z) = P(y, z) / P(z), the score is 1/n sum_i log sum_z P(y_i | z) theta(x_i)_z (Nguyen et al., "LEEP: A New
    Measure to Evaluate Transferability of Learned Representations", ICML 2020, equations 1 and 2). A source class that
    no sample has any probability of takes no part.

    Args:
        source_probabilities: [n, s], rows that sum to 1.
        labels: class indices [n].

    Raises:
        UserError: fewer than two classes, or probabilities that are not finite.
    """
    theta = double(source_probabilities)
    indices, num_classes = class_indices(labels)
    joint = torch.zeros(num_classes, theta.shape[1], dtype=torch.float64).index_add_(0, indices, theta) / len(theta)
    marginal = joint.sum(0)
    conditional = joint / torch.where(marginal > 0, marginal, 1.0)  # [k, s]
    return float((conditional[indices] * theta).sum(1).log().mean())
