"""What turns a stored sample into a backbone's input: an object that says what a backbone wants of any kind."""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor


class Inputs(Protocol):
    """What a backbone wants of its inputs, and how samples are stored before: plain, frozen, hashable.

    `data.modalities` says how samples are brought there, by `modality`.
    """

    modality: ClassVar[str]  # of the samples that are read

    @property
    def size(self) -> int:
        """The length of an input's longest axis, which a user may choose: pixels, tokens."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input, as the network is given it."""

    @property
    def num_bytes(self) -> int:
        """Memory that one stored sample takes."""

    def with_size(self, size: int) -> "Inputs":
        """The same for inputs of another size."""

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for records, fingerprints and metadata; all but images say their `modality`."""

    def blank(self, num: int) -> Tensor:
        """So many inputs [n, *shape] without content."""

    def noise(self, num: int) -> Tensor:
        """So many inputs [n, *shape] drawn from the global generator, to be timed."""


@dataclass(frozen=True)
class Preprocessing:
    """Of images: resize to the canvas, crop its centre square, scale to [0, 1], crop to `size`, normalise.

    >>> Preprocessing(size=224, mean=(0.5,) * 3, std=(0.5,) * 3, resize=256).canvas
    256
    """

    modality: ClassVar[str] = "image"

    size: int  # height and width of what the backbone sees
    mean: tuple[float, ...]  # per channel, of values in [0, 1]; one channel is grey, three are colour
    std: tuple[float, ...]
    resize: int | None = None  # height and width of the canvas; None is `size`
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @property
    def channels(self) -> int:
        """1 or 3."""
        return len(self.mean)

    @property
    def canvas(self) -> int:
        """Height and width at which images are stored."""
        return self.resize or self.size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the backbone sees."""
        return self.channels, self.size, self.size

    @property
    def num_bytes(self) -> int:
        """Memory that one canvas takes."""
        return self.channels * self.canvas**2

    def with_size(self, size: int) -> "Preprocessing":
        """The same for a backbone that sees images of another size."""
        return replace(self, size=size)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for records, fingerprints and metadata."""
        return asdict(self)

    def blank(self, num: int) -> Tensor:
        """Images [n, c, size, size] of zeros."""
        return torch.zeros(num, *self.shape)

    def noise(self, num: int) -> Tensor:
        """Images [n, c, size, size] of normal noise."""
        return torch.randn(num, *self.shape)


def image_preprocessing(values: dict[str, Any]) -> Preprocessing:
    """The preprocessing that `as_dict` described."""
    return Preprocessing(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
