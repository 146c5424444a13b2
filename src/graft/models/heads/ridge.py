"""Ridge regression on one-hot targets, its strength chosen by exact leave-one-out."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from graft.errors import UserError
from graft.models.heads.base import ClosedFormHead

STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 7))


class RidgeHead(ClosedFormHead):
    """min over W, b of ||Y - (X W' + 1 b')||^2 + lambda ||W||^2, Y one-hot, b not penalised.

    lambda is that of `strengths` times the mean squared singular value of the centred features with the least
    leave-one-out squared error, which one decomposition gives for all lambdas without fitting n times
    (Allen 1974; Hastie et al. 2009, eq. 7.64). Buffers: `weight` [k, d], `bias` [k] and `ridge_lambda`.

    Args:
        num_features, num_classes: d and k.
        strengths: candidates for lambda, relative to the scale of the features, all above 0.

    Raises:
        UserError: no strength, or one that is not above 0.
    """

    ridge_lambda: Tensor  # []

    def __init__(self, num_features: int, num_classes: int, strengths: Sequence[float] = STRENGTHS) -> None:
        if not strengths or min(strengths) <= 0:
            raise UserError(f"head.strengths={list(strengths)}: expected numbers above 0")
        super().__init__(num_features, num_classes)
        self.strengths = tuple(float(strength) for strength in strengths)
        self.register_buffer("ridge_lambda", torch.zeros(()))

    def solve(self, features: Tensor, labels: Tensor) -> None:
        """Set the weights from the features [n, d] and class indices [n] of the training set, n >= 2.

        Raises:
            UserError: fewer than two samples, of which none can be left out.
        """
        if len(features) < 2:
            raise UserError(f"head=ridge: {len(features)} training samples; leave-one-out needs at least 2")
        # float64 on the CPU: some accelerators have none, and the Gram matrix squares the condition number.
        x = features.detach().to("cpu", torch.float64)
        y = F.one_hot(labels.cpu(), self.num_classes).to(torch.float64)
        axes = principal_axes(x - x.mean(0))
        candidates = torch.tensor(self.strengths, dtype=torch.float64) * _scale(axes)
        errors = torch.stack([leave_one_out_error(axes, y - y.mean(0), strength) for strength in candidates])
        best = candidates[errors.argmin()]
        weight = coefficients(axes, y - y.mean(0), best)
        self.weight.copy_(weight)
        self.bias.copy_(y.mean(0) - weight @ x.mean(0))
        self.ridge_lambda.copy_(best)


class PrincipalAxes(NamedTuple):
    """The centred features X [n, d] of rank r in their own axes: X = scores @ directions'."""

    scores: Tensor  # [n, r]
    directions: Tensor  # [d, r], orthonormal
    squares: Tensor  # [r], squared singular values


def principal_axes(x: Tensor) -> PrincipalAxes:
    """Axes of centred features [n, d], from the smaller of the two Gram matrices."""
    n, d = x.shape
    squares, vectors = torch.linalg.eigh(x @ x.T if n < d else x.T @ x)
    kept = squares > squares[-1].clamp(min=0) * max(n, d) * torch.finfo(x.dtype).eps
    squares, vectors = squares[kept], vectors[:, kept]
    if n < d:
        return PrincipalAxes(vectors * squares.sqrt(), x.T @ (vectors / squares.sqrt()), squares)
    return PrincipalAxes(x @ vectors, vectors, squares)


def _scale(axes: PrincipalAxes) -> Tensor:
    """Mean squared singular value; 1 where the features do not vary, and nothing depends on it."""
    return axes.squares.mean() if len(axes.squares) else torch.ones((), dtype=axes.squares.dtype)


def coefficients(axes: PrincipalAxes, y: Tensor, strength: Tensor) -> Tensor:
    """W [k, d] of the ridge solution for centred targets [n, k]."""
    return (axes.directions @ ((axes.scores.T @ y) / (axes.squares + strength)[:, None])).T


def leave_one_out_error(axes: PrincipalAxes, y: Tensor, strength: Tensor) -> Tensor:
    """Mean squared error of predicting each sample from all the others, for centred targets [n, k].

    The residual of a left-out sample is its ordinary residual over 1 - H_ii, where the hat matrix H counts the
    intercept (1/n) too.
    """
    shrunk = axes.scores / (axes.squares + strength)
    leverage = (shrunk * axes.scores).sum(1) + 1 / len(y)
    residual = y - shrunk @ (axes.scores.T @ y)
    return (residual / (1 - leverage)[:, None]).square().mean()
