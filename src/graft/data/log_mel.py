"""Waveforms as log-mel spectrograms in the shape of images, on the device they are on."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.data.waveforms import FULL_SCALE
from graft.errors import UserError

WINDOW = 0.025  # seconds that a window covers at least, and two steps
QUIETEST = 1e-10  # power of a mel band below which nothing is told apart


@dataclass(frozen=True)
class MelBands:
    """What a spectrogram is computed by: `size` mel bands at `size` moments.

    The sound is cut into `size` steps of `hop` samples. Frame t has a periodic Hann window of `window` samples around
    the middle of step t, with zeros beyond both ends of the sound, and its power spectrum of `fft` points is summed
    within triangles whose corners are equally spaced in mel = 2595 log10(1 + f / 700) (HTK) from 0 Hz to half the
    rate, each of height 1.
    """

    rate: int  # Hz
    samples: int
    size: int  # of bands and frames

    def __post_init__(self) -> None:
        if self.samples < self.size:
            raise UserError(f"sounds of {self.samples} samples are too short for {self.size} frames of a spectrogram")

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return -(-self.samples // self.size)

    @property
    def window(self) -> int:
        """Samples that a frame covers."""
        return max(round(WINDOW * self.rate), 2 * self.hop)

    @property
    def fft(self) -> int:
        """Points of the Fourier transform: a power of two, with which every triangle holds two of them or more."""
        corners = self.corners()
        narrowest = float((corners[2:] - corners[:-2]).min())
        points = 1
        while points < self.window or self.rate / points > narrowest / 2:
            points *= 2
        return points

    def corners(self) -> Tensor:
        """Frequencies in Hz where the triangles begin, peak and end: float64 [size + 2]."""
        highest = mel(torch.tensor(self.rate / 2, dtype=torch.float64))
        mels = torch.linspace(0, 1, self.size + 2, dtype=torch.float64) * highest
        return 700 * (10 ** (mels / 2595) - 1)

    def filters(self) -> Tensor:
        """The triangles at the frequencies of the Fourier transform: float64 [fft / 2 + 1, size]."""
        corners = self.corners()
        frequencies = torch.arange(self.fft // 2 + 1, dtype=torch.float64)[:, None] * self.rate / self.fft
        left, peak, right = corners[:-2], corners[1:-1], corners[2:]
        rising, falling = (frequencies - left) / (peak - left), (right - frequencies) / (right - peak)
        return torch.minimum(rising, falling).clamp(min=0)


def mel(frequencies: Tensor) -> Tensor:
    """Frequencies in Hz on the mel scale: 2595 log10(1 + f / 700) (HTK)."""
    return 2595 * torch.log10(1 + frequencies / 700)


class LogMel(nn.Module):
    """Waveforms int16 or float [n, samples] to spectrograms float32 [n, size, size], bands by frames, from 0 to 1.

    10 log10 of the power in each mel band, from `range_db` below the loudest of the sound (0) to the loudest (1): how
    loud a sound is as a whole makes no difference. Computed in float32 throughout.
    """

    taper: Tensor
    filters: Tensor

    def __init__(self, bands: MelBands, range_db: float) -> None:
        super().__init__()
        self.range_db, self.hop, self.window, self.fft = range_db, bands.hop, bands.window, bands.fft
        outside = (bands.size - 1) * bands.hop + bands.window - bands.samples
        self.around = outside // 2, outside - outside // 2  # zeros before and after the sound
        hann = torch.hann_window(bands.window, periodic=True, dtype=torch.float64)
        self.register_buffer("taper", hann.float())
        self.register_buffer("filters", bands.filters().float())

    def forward(self, waveforms: Tensor) -> Tensor:
        """The spectrograms."""
        sound = waveforms.to(torch.float32) / FULL_SCALE
        frames = functional.pad(sound, self.around).unfold(1, self.window, self.hop)
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self.taper, n=self.fft))
        power = spectrum.square().sum(-1) @ self.filters  # [n, frames, bands]
        decibels = 10 * torch.log10(power.clamp(min=QUIETEST))
        below = decibels - decibels.amax((1, 2), keepdim=True)
        return (1 + below / self.range_db).clamp(min=0).transpose(1, 2)
