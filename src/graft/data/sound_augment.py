"""What is random in training on sounds; every draw from a given generator."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from graft.data.draws import uniform
from graft.errors import UserError


@dataclass(frozen=True)
class SoundAugmentation:
    """What is done to training sounds; each part is off by default.

    SpecAugment (Park et al., Interspeech 2019) without its time warping: bands and stretches of the spectrogram are set
    to its mean; for a backbone that hears waveforms, bands are cut out of the sound and stretches of it silenced, as
    `drop_freq` and `drop_chunk` of SpeechBrain (Ravanelli et al., arXiv 2106.04624) do. A gain would change nothing,
    since spectrograms are relative to the loudest of each sound, and most encoders hear sounds normalised.
    """

    shift: float = 0.0  # seconds, at most, that a sound comes earlier or later; silence follows it in
    noise: tuple[float, float] | None = None  # white: lowest and highest ratio of signal to noise, dB
    frequency_masks: int = 0
    frequency_width: float = 0.2  # of a mask at most, as a share of the bands, or of the mel scale
    time_masks: int = 0
    time_width: float = 0.2  # of a mask at most, as a share of the sound
    mixup: float = 0.0  # alpha of the beta distribution of mixing weights

    def __post_init__(self) -> None:
        for name in ("shift", "frequency_masks", "time_masks", "mixup"):
            if getattr(self, name) < 0:
                raise UserError(f"augmentation.{name}={getattr(self, name)}: expected a number from 0")
        for name in ("frequency_width", "time_width"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"augmentation.{name}={getattr(self, name)}: expected a share above 0 and at most 1")
        if self.noise is not None:
            object.__setattr__(self, "noise", tuple(float(ratio) for ratio in self.noise))
            if len(self.noise) != 2 or self.noise[0] > self.noise[1]:
                raise UserError(
                    f"augmentation.noise={list(self.noise)}: expected two ratios in dB in ascending order, or null"
                )

    @property
    def any(self) -> bool:
        """Whether anything is random."""
        return bool(self.shift or self.noise or self.frequency_masks or self.time_masks or self.mixup)


def shifted(x: Tensor, most: int, generator: Generator) -> Tensor:
    """Sounds [n, samples], each later by up to `most` samples or earlier, with zeros where there is no sound."""
    num, length = x.shape
    by = uniform(num, -most, most + 1, generator).floor().long()
    origin = torch.arange(length, device=x.device) - by[:, None]
    there = (origin >= 0) & (origin < length)
    return x.gather(1, origin.clamp(0, length - 1)) * there


def noisy(x: Tensor, ratios: tuple[float, float], generator: Generator) -> Tensor:
    """Sounds float [n, samples] with white noise, so many dB below each sound's mean power."""
    ratio = uniform(len(x), *ratios, generator)[:, None]
    strength = x.square().mean(1, keepdim=True).sqrt() * 10 ** (-ratio / 20)
    return x + strength * torch.randn(x.shape, generator=generator, device=x.device)


def masked(x: Tensor, count: int, width: float, axis: int, generator: Generator) -> Tensor:
    """Spectrograms [n, bands, frames] with `count` stretches of an axis (1 or 2) set to the mean of each.

    Lengths are uniform up to `width` of the axis, and then the beginnings within what is left (section 2.2 of Park et
    al., 2019).
    """
    size = x.shape[axis]
    places = torch.arange(size, device=x.device).view((-1, 1) if axis == 1 else (1, -1))
    mean = x.mean((1, 2), keepdim=True)
    for _ in range(count):
        length = (uniform(len(x), 0, width * size + 1, generator)).floor().clamp(max=size)
        begin = (uniform(len(x), 0, 1, generator) * (size - length + 1)).floor()
        first, end = begin[:, None, None], (begin + length)[:, None, None]
        x = torch.where((places >= first) & (places < end), mean, x)
    return x


def without_bands(x: Tensor, count: int, width: float, places: Tensor, generator: Generator) -> Tensor:
    """Sounds float [n, samples] with `count` bands of frequency cut out of each.

    Widths are uniform up to `width`, and then the lower edges within what is left.

    Args:
        x: sounds.
        count: bands of each; they may overlap.
        width: of a band at most, as a share of the scale from 0 Hz to half the rate.
        places: on that scale, from 0 to 1, of the frequencies of the discrete Fourier transform, [samples // 2 + 1].
        generator: the source of all draws.
    """
    if not count:
        return x
    spectrum = torch.fft.rfft(x)
    for _ in range(count):
        span = uniform(len(x), 0, width, generator)
        begin = uniform(len(x), 0, 1, generator) * (1 - span)
        first, end = begin[:, None], (begin + span)[:, None]
        spectrum = torch.where((places >= first) & (places < end), 0, spectrum)
    return torch.fft.irfft(spectrum, n=x.shape[1])
