"""The target's mean and covariance brought onto the source's, in closed form."""

import torch
import torch.nn.functional as F
from torch import Tensor

from graft.errors import UserError
from graft.models.mappings.base import Mapping


class AlignmentMapping(Mapping):
    """g(f) = W (f - m_t) + m_s with W = C_s^{1/2} C_t^{-1/2} (CORAL, Sun et al. 2016, from target to source).

    The covariances are shrunk towards a multiple of the identity (Ledoit and Wolf 2004), without which a target of
    fewer samples than features has no inverse. Buffers: `weight` [d, d] and `bias` [d], the identity until solved.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.register_buffer("weight", torch.eye(num_features))
        self.register_buffer("bias", torch.zeros(num_features))

    def forward(self, features: Tensor) -> Tensor:
        """[n, d] -> [n, d]."""
        return F.linear(features, self.weight, self.bias)

    def solve(self, source_features: Tensor, target_features: Tensor) -> None:
        """Set the map from source features [n_s, d] and target features [n_t, d]; no labels are used.

        Raises:
            UserError: a domain has fewer than two samples, or features that do not vary.
        """
        source_mean, source_covariance = _statistics("source", source_features)
        target_mean, target_covariance = _statistics("target", target_features)
        weight = _power(source_covariance, 0.5) @ _power(target_covariance, -0.5)
        self.weight.copy_(weight)
        self.bias.copy_(source_mean - weight @ target_mean)


def shrunk_covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Shrunk covariance [d, d] of centred samples [n, d], and its shrinkage in [0, 1] towards a multiple of I.

    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004, lemma 3.2 on.
    """
    n, d = x.shape
    sample = x.T @ x / n
    target = sample.diagonal().mean() * torch.eye(d, dtype=x.dtype)
    distance = (sample - target).square().sum()
    squared_norms = x.square().sum(1)
    noise = (squared_norms.square().sum() / n - sample.square().sum()) / n
    shrinkage = (noise / distance).clamp(0, 1) if distance > 0 else torch.ones_like(distance)
    return shrinkage * target + (1 - shrinkage) * sample, shrinkage


def _statistics(domain: str, features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] and shrunk covariance [d, d], in float64 on the CPU: roots of covariances are numerically delicate."""
    x = features.detach().to("cpu", torch.float64)
    if len(x) < 2:
        raise UserError(f"mapping=alignment: {len(x)} {domain} samples; a covariance needs at least 2")
    mean = x.mean(0)
    if not (x - mean).any():
        raise UserError(f"mapping=alignment: the {domain} features are all alike, which leaves nothing to align")
    return mean, shrunk_covariance(x - mean)[0]


def _power(covariance: Tensor, exponent: float) -> Tensor:
    """A symmetric positive definite matrix [d, d] to a real power."""
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=values[-1] * torch.finfo(values.dtype).eps)
    return (vectors * values**exponent) @ vectors.T
