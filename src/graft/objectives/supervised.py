"""Supervised losses, as functions of tensors and as objectives."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from graft.errors import UserError


class Outputs(NamedTuple):
    """What a network gives for a batch."""

    logits: Tensor  # [n, k]
    features: Tensor  # [n, d], what the head was given


class Objective(Protocol):
    """Named terms of a loss; what is minimised is their sum."""

    def __call__(self, outputs: Outputs, y: Tensor, progress: float) -> dict[str, Tensor]:
        """Scalar terms for a batch of labels [n] or class probabilities [n, k].

        `progress` in [0, 1] is the share of the stage's optimiser steps that lie behind; ramps are functions of it.
        """


def _full_precision(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean over n of -sum_k q_k log softmax(logits)_k, in float32 at least.

    q is the label's one-hot vector, or the class probabilities given, mixed with the uniform distribution in the ratio
    (1 - label_smoothing) : label_smoothing (Szegedy et al., "Rethinking the Inception architecture", CVPR 2016, 7).

    `logits` is [n, k]; `y` is [n] class indices or [n, k] class probabilities; the result is a scalar.
    """
    return F.cross_entropy(_full_precision(logits), y, label_smoothing=label_smoothing)


def least_squares(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over n of sum_k (logits_k - q_k)^2, q the label's one-hot vector or the class probabilities given.

    `logits` is [n, k]; `y` is [n] class indices or [n, k] class probabilities; the result is a scalar.
    """
    logits = _full_precision(logits)
    targets = y if y.ndim == 2 else F.one_hot(y, logits.shape[1])
    return (logits - targets.to(logits.dtype)).square().sum(dim=1).mean()


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy on the labels."""

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise UserError(f"objective: label_smoothing={self.label_smoothing!r}; expected a number from 0 to below 1")

    def __call__(self, outputs: Outputs, y: Tensor, progress: float) -> dict[str, Tensor]:
        """The one term `cross_entropy`."""
        return {"cross_entropy": cross_entropy(outputs.logits, y, self.label_smoothing)}


@dataclass(frozen=True)
class LeastSquares:
    """Squared distance between the logits and the one-hot labels."""

    def __call__(self, outputs: Outputs, y: Tensor, progress: float) -> dict[str, Tensor]:
        """The one term `least_squares`."""
        return {"least_squares": least_squares(outputs.logits, y)}
