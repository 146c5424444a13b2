"""Nearest class mean."""

import torch
from torch import Tensor

from graft.errors import UserError
from graft.models.heads.base import ClosedFormHead


class PrototypeHead(ClosedFormHead):
    """Logits -||f - c_k||^2 / (2 t) with c_k the mean feature of class k (Snell et al. 2017, eq. 2).

    The temperature t is the mean squared distance of a training sample to its own prototype, per dimension, so that
    the logits are those of Gaussian classes that share one spherical covariance. A term that is the same for every
    class is left out, which makes them linear in f.

    Args:
        num_features, num_classes: d and k.
    """

    def solve(self, features: Tensor, labels: Tensor) -> None:
        """Set the prototypes from the features [n, d] and class indices [n] of the training set.

        Raises:
            UserError: a class has no sample.
        """
        features = features.detach().to("cpu", torch.float64)
        labels = labels.cpu()
        counts = torch.bincount(labels, minlength=self.num_classes)
        if (counts == 0).any():
            raise UserError(f"head=prototype: no training sample of class {int(counts.argmin())}; it needs one of each")
        sums = torch.zeros(self.num_classes, self.num_features, dtype=torch.float64).index_add_(0, labels, features)
        prototypes = sums / counts[:, None]
        temperature = _within_class_variance(features - prototypes[labels], self.num_classes)
        self.weight.copy_(prototypes / temperature)
        self.bias.copy_(-prototypes.square().sum(1) / (2 * temperature))


def _within_class_variance(deviations: Tensor, num_classes: int) -> Tensor:
    """Unbiased variance per dimension of deviations [n, d] from class means; 1 where one sample a class leaves none."""
    degrees_of_freedom = max(len(deviations) - num_classes, 1) * deviations.shape[1]
    variance = deviations.square().sum() / degrees_of_freedom
    return torch.where(variance > 0, variance, torch.ones_like(variance))
