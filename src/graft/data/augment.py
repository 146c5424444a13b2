"""What is random in training, and the mixing of images; every draw from a given generator."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from graft.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images; each part is off by default."""

    crop_padding: int = 0  # pad the canvas by so many black pixels, then crop at random
    flip: bool = False  # mirror half of the images
    resized_crop: tuple[float, float] | None = None  # smallest and largest share of the canvas that a crop covers
    rotation: float = 0.0  # by angles from -rotation to rotation, in degrees; corners become black
    brightness: float = 0.0  # each of these three is changed by factors from 1 - strength to 1 + strength
    contrast: float = 0.0
    saturation: float = 0.0
    mixup: float = 0.0  # alpha of the beta distribution of mixing weights
    cutmix: float = 0.0  # alpha of the beta distribution of the share that is kept

    def __post_init__(self) -> None:
        for name in ("crop_padding", "rotation", "brightness", "contrast", "saturation", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise UserError(f"augmentation.{name}={getattr(self, name)}: expected a number from 0")
        if self.resized_crop is not None:
            object.__setattr__(self, "resized_crop", tuple(float(share) for share in self.resized_crop))
            if len(self.resized_crop) != 2 or not 0 < self.resized_crop[0] <= self.resized_crop[1] <= 1:
                raise UserError(
                    f"augmentation.resized_crop={list(self.resized_crop)}: expected two shares in ascending order, "
                    "above 0 and at most 1"
                )
            if self.crop_padding:
                raise UserError("augmentation.crop_padding and augmentation.resized_crop: give one of the two")

    @property
    def any(self) -> bool:
        """Whether anything is random."""
        return self != Augmentation()

    @property
    def changes_colour(self) -> bool:
        """Whether brightness, contrast or saturation is random."""
        return bool(self.brightness or self.contrast or self.saturation)


def mix(
    x: Tensor, y: Tensor, num_classes: int, mixup: float, cutmix: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mix a batch with a shuffled self: mixup or cutmix, chosen evenly where both are on.

    Mixup (Zhang et al., ICLR 2018): x = w x_i + (1 - w) x_j, and the labels likewise, w from Beta(mixup, mixup).
    CutMix (Yun et al., ICCV 2019): a box that covers 1 - w of the image comes from x_j, w from Beta(cutmix, cutmix).

    Args:
        x: images [n, c, h, w], float.
        y: class indices [n].
        num_classes: k.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of cutmix; 0 is off.
        generator: the source of all draws.

    Returns:
        images [n, c, h, w] and class probabilities [n, k].
    """
    seed = torch.randint(2**31 - 1, (1,), generator=generator, device=generator.device)
    rng = np.random.default_rng(int(seed))
    partner = torch.randperm(len(x), generator=generator, device=x.device)
    use_cutmix = cutmix > 0 and (mixup == 0 or rng.random() < 0.5)
    weight = float(rng.beta(cutmix, cutmix) if use_cutmix else rng.beta(mixup, mixup))
    if use_cutmix:
        x, weight = _cutmix(x, partner, weight, rng)
    else:
        x = weight * x + (1 - weight) * x[partner]
    probabilities = functional.one_hot(y, num_classes).to(x.dtype)
    return x, weight * probabilities + (1 - weight) * probabilities[partner]


def _cutmix(x: Tensor, partner: Tensor, weight: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Paste a box from the partners; returns the images and the share that is their own."""
    height, width = x.shape[2:]
    side = math.sqrt(1 - weight)
    row, column = rng.integers(height), rng.integers(width)
    top, bottom = (int(np.clip(row + sign * height * side / 2, 0, height)) for sign in (-1, 1))
    left, right = (int(np.clip(column + sign * width * side / 2, 0, width)) for sign in (-1, 1))
    x = x.clone()
    x[:, :, top:bottom, left:right] = x[partner, :, top:bottom, left:right]
    return x, 1 - (bottom - top) * (right - left) / (height * width)
