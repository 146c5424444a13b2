"""Random colours of whole batches; every draw from a given generator."""

import torch
from torch import Generator, Tensor

from graft.data.draws import uniform

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision rounds it


def jitter_colour(x: Tensor, brightness: float, contrast: float, saturation: float, generator: Generator) -> Tensor:
    """Change each image's brightness, contrast and saturation, in this order, by a factor of its own.

    Factors are drawn from [max(0, 1 - strength), 1 + strength]; what they do is torchvision's `ColorJitter`, whose
    order is random: x' = f x + (1 - f) y, cut to 0..255, where y is black for brightness, the image's mean luma for
    contrast, and the pixel's luma for saturation.

    Args:
        x: images [n, c, h, w] of values 0..255, c of 1 or 3.
        brightness: strength; 0 is off.
        contrast: likewise.
        saturation: likewise; grey images have none.
        generator: the source of all draws.

    Returns:
        float images [n, c, h, w] of values 0..255.
    """
    x = x.float()
    if brightness:
        x = blend(x, torch.zeros((), device=x.device), draw_factors(len(x), brightness, generator))
    if contrast:
        x = blend(x, luma(x).mean(dim=(1, 2, 3), keepdim=True), draw_factors(len(x), contrast, generator))
    if saturation and x.shape[1] == 3:
        x = blend(x, luma(x), draw_factors(len(x), saturation, generator))
    return x


def draw_factors(num: int, strength: float, generator: Generator) -> Tensor:
    """Factors [n, 1, 1, 1]."""
    return uniform(num, max(0.0, 1 - strength), 1 + strength, generator).view(-1, 1, 1, 1)


def blend(x: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    """`x` where the factor is 1, `other` where it is 0, beyond `x` above 1; within 0..255."""
    return torch.lerp(other, x, factors).clamp_(0, 255)


def luma(x: Tensor) -> Tensor:
    """Brightness [n, 1, h, w] of images [n, c, h, w]."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
