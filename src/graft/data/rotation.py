"""Random rotations of whole batches; every draw from a given generator."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

from graft.data.draws import uniform


def rotate_randomly(x: Tensor, degrees: float, generator: Generator) -> Tensor:
    """Turn each image around its centre by an angle of its own, drawn from [-degrees, degrees]; as `rotate`."""
    return rotate(x, uniform(len(x), -degrees, degrees, generator))


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image around its centre, interpolated bilinearly; what comes from outside of it is 0.

    Args:
        x: images [n, c, h, w].
        degrees: angles [n], counter-clockwise.

    Returns:
        float images [n, c, h, w].
    """
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    ratio, zero = x.shape[2] / x.shape[3], torch.zeros_like(cos)  # the axes run from -1 to 1, whatever their lengths
    turned = torch.stack([cos, -sin * ratio, zero, sin / ratio, cos, zero], dim=1).view(-1, 2, 3)
    grid = affine_grid(turned, list(x.shape), align_corners=False)
    return grid_sample(x.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
