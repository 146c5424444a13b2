"""Random numbers of a batch, from a given generator and on its device."""

import torch
from torch import Generator, Tensor


def uniform(num: int, low: float, high: float, generator: Generator) -> Tensor:
    """`num` draws from [low, high) on the generator's device."""
    return torch.rand(num, generator=generator, device=generator.device) * (high - low) + low


def coin(num: int, generator: Generator) -> Tensor:
    """`num` fair draws of true or false."""
    return torch.rand(num, generator=generator, device=generator.device) < 0.5
