"""TransRate: the rate by which knowing the classes shortens the code of the features."""

import torch
from torch import Tensor

from graft.errors import UserError
from graft.scores.base import class_indices, double


def transrate(features: Tensor, labels: Tensor, eps: float = 1e-4) -> float:
    """R(Z, eps) - sum_c n_c / n R(Z_c, eps) for centred features Z [n, d] and those Z_c [n_c, d] of class c; from 0 on.

    R(Z, eps) = 1/2 log det(I + Z' Z / (n eps)) stands for the mutual information of features and labels (Huang et al.,
    "Frustratingly Easy Transferability Estimation", ICML 2022, equations 4 to 6). Features are scaled to a mean squared
    length of 1, so that eps is a share of it and backbones that differ in scale alone score alike.

    Args:
        features: [n, d].
        labels: class indices [n].
        eps: squared distortion that the code may have, above 0.

    Raises:
        UserError: fewer than two classes, features that are not finite, or `eps` not above 0.
    """
    if eps <= 0:
        raise UserError(f"transrate: eps={eps}; expected a number above 0")
    z = double(features)
    indices, num_classes = class_indices(labels)
    z = z - z.mean(0)
    length = z.square().sum(1).mean().sqrt()
    z = z / torch.where(length > 0, length, 1.0)
    of_classes = [z[indices == index] for index in range(num_classes)]
    within = sum(len(part) / len(z) * coding_rate(part, eps) for part in of_classes)
    return coding_rate(z, eps) - within


def coding_rate(z: Tensor, eps: float) -> float:
    """1/2 log det(I + Z' Z / (n eps)) of Z [n, d], from the smaller of the two Gram matrices (Sylvester's identity)."""
    n, d = z.shape
    gram = z @ z.T if n < d else z.T @ z
    return 0.5 * float(torch.logdet(torch.eye(len(gram), dtype=z.dtype) + gram / (n * eps)))
