"""NCE: how much the source's hard answers leave open about the target's labels."""

import torch
from torch import Tensor

from graft.scores.base import class_indices, double


def nce(source_probabilities: Tensor, labels: Tensor) -> float:
    """Negative conditional entropy -H(Y | Z) of the labels given the source's most probable class; at most 0.

    With P(y, z) the share of samples of label y that the source's classifier takes for its class z, the score is
    sum_{y, z} P(y, z) log(P(y, z) / P(z)) (Tran et al., "Transferability and Hardness of Supervised Classification
    Tasks", ICCV 2019, equation 8). It lies between -H(Y) and 0.

    Args:
        source_probabilities: [n, s].
        labels: class indices [n].

    Raises:
        UserError: fewer than two classes, or probabilities that are not finite.
    """
    z = double(source_probabilities).argmax(1)
    indices, num_classes = class_indices(labels)
    num_source = source_probabilities.shape[1]
    cells = torch.bincount(indices * num_source + z, minlength=num_classes * num_source)
    joint = cells.view(num_classes, num_source).to(torch.float64) / len(z)
    used = joint > 0
    return float((joint * (joint / joint.sum(0)).log())[used].sum())
