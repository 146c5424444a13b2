"""LogME: the evidence of a Bayesian linear model on the features."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from graft.models.heads.ridge import principal_axes
from graft.scores.base import class_indices, double

# The noise, in units of the largest squared singular value, is sought between these powers of ten: first on a grid of
# so many points, then on ones as fine around the best. The last is 1e-6 wide in the logarithm of the noise.
EXPONENTS = (-10.0, 10.0)
NUM_POINTS = 41
NUM_ROUNDS = 6


def logme(features: Tensor, labels: Tensor) -> float:
    """Log evidence per sample of one-hot labels under linear models of the features, averaged over the classes.

    For each class, y = F w + noise, w ~ N(0, I / alpha), noise ~ N(0, I / beta); the score is the mean over classes of
    max over alpha, beta of log p(y | F, alpha, beta) / n (You et al., "LogME: Practical Assessment of Pre-trained
    Models for Transfer Learning", ICML 2021, equations 2 and 5). That maximum is where the paper's fixed-point
    iteration ends; here it is sought along the one direction that matters, t = alpha / beta: for a given t the best
    alpha has a closed form, and all singular values, those that are zero too, keep their term for n < d as for n > d.

    Where labels are an exact linear function of the features and samples are left over, the evidence has no bound; it
    is then that of the least noise considered.

    Args:
        features: [n, d].
        labels: class indices [n].

    Raises:
        UserError: fewer than two classes, or features that are not finite.
    """
    x = double(features)
    indices, num_classes = class_indices(labels)
    axes = principal_axes(x)
    y = F.one_hot(indices, num_classes).to(torch.float64)
    in_span = (axes.scores.T @ y).square() / axes.squares[:, None]  # [r, k] squared parts of y along the axes
    squares = axes.squares / axes.squares.max() if len(axes.squares) else axes.squares  # the evidence ignores the scale
    outside = (y.sum(0) - in_span.sum(0)).clamp(min=0) if len(squares) < len(x) else y.new_zeros(num_classes)
    evidences = [max_log_evidence(squares, in_span[:, index], outside[index], len(x)) for index in range(num_classes)]
    return sum(evidences) / num_classes / len(x)


def max_log_evidence(squares: Tensor, in_span: Tensor, outside: Tensor, num_samples: int) -> float:
    """The log evidence of one class' labels at its best alpha and beta.

    Args:
        squares: [r] squared singular values of the features, the largest 1.
        in_span: [r] squared components of the labels along the left singular vectors.
        outside: [] squared length of what is left of the labels.
        num_samples: n.
    """
    low, high = (exponent * math.log(10) for exponent in EXPONENTS)
    for _ in range(NUM_ROUNDS):
        grid = torch.linspace(low, high, NUM_POINTS, dtype=torch.float64)
        evidence = log_evidence(grid.exp(), squares, in_span, outside, num_samples)
        best = int(evidence.argmax())
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, NUM_POINTS - 1)])
    return float(evidence.max())


def log_evidence(noise: Tensor, squares: Tensor, in_span: Tensor, outside: Tensor, num_samples: int) -> Tensor:
    """Log evidence [p] at each t = alpha / beta of `noise` [p], alpha at its best for it.

    The labels' covariance F F' / alpha + I / beta has the eigenvalues (s + t) / alpha, s a squared singular value or 0;
    the evidence is highest at 1 / alpha = the mean over all n of the squared component over s + t.
    """
    variances = squares + noise[:, None]  # [p, r]
    num_outside = num_samples - len(squares)
    scale = ((in_span / variances).sum(1) + outside / noise) / num_samples
    log_determinant = variances.log().sum(1) + num_outside * noise.log() + num_samples * scale.log()
    return -0.5 * (num_samples * math.log(2 * math.pi) + log_determinant + num_samples)
