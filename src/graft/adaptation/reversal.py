"""Gradient reversal."""

from typing import Any

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, coefficient: float) -> Tensor:
        ctx.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.coefficient * gradients[0], None


def reverse(x: Tensor, coefficient: float) -> Tensor:
    """The tensor x itself, whose gradient is -coefficient times what comes back, in the shape of x.

    Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016, section 4.2.
    """
    reversed_x: Tensor = _Reversal.apply(x, coefficient)
    return reversed_x
