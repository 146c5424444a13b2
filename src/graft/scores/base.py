"""What every score is: a function of tensors, of which the higher value promises the better transfer."""

from collections.abc import Callable
from inspect import signature

import torch
from torch import Tensor

from graft.errors import UserError

INPUTS = ("features", "labels", "source_probabilities")  # what a score may ask for, by the names of its arguments

# A function of some of `features` [n, d], `labels` [n] and `source_probabilities` [n, s] of the target's training
# samples; its other arguments are settings. It works in float64, on the CPU.
Score = Callable[..., float]


def inputs_of(score: Score) -> set[str]:
    """Which of `INPUTS` a score is a function of."""
    return {name for name in INPUTS if name in signature(score).parameters}


def double(values: Tensor) -> Tensor:
    """The values [n, ...] in float64 on the CPU.

    Raises:
        UserError: a value is infinite or no number.
    """
    values = values.detach().to("cpu", torch.float64)
    if not values.isfinite().all():
        raise UserError("a score was given values that are infinite or no numbers; the weights may be damaged")
    return values


def class_indices(labels: Tensor) -> tuple[Tensor, int]:
    """The labels [n] as indices from 0 on without gaps, classes in the order in which they appear, and their number k.

    Which number a class had thus changes no score, and a class without a sample does not count.

    Raises:
        UserError: there are fewer than two classes.
    """
    values, indices = labels.cpu().unique(return_inverse=True)
    num_classes = len(values)
    if num_classes < 2:
        raise UserError(f"a score was given {len(labels)} samples of {num_classes} class; it needs two classes or more")
    first = torch.full((num_classes,), len(labels)).scatter_reduce(0, indices, torch.arange(len(labels)), "amin")
    return first.argsort().argsort()[indices], num_classes


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean features [k, d] and number of samples [k] of each class, of features [n, d] and class indices [n]."""
    counts = torch.bincount(labels, minlength=num_classes).to(features.dtype)
    sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    return sums / counts[:, None], counts
