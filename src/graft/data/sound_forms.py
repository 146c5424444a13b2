"""Stored waveforms as a network is given them, on the device they are on: spectrograms, or waveforms still."""

import torch
from torch import Generator, Tensor, nn

from graft.data.log_mel import LogMel, mel
from graft.data.sound_augment import SoundAugmentation, masked, without_bands
from graft.data.sound_preprocessing import SoundPreprocessing, SpectrogramPreprocessing
from graft.data.waveform_preprocessing import WaveformPreprocessing
from graft.data.waveforms import FULL_SCALE

TINY = 1e-7  # added to the variance of a waveform, as transformers' Wav2Vec2FeatureExtractor does


class Spectrograms(nn.Module):
    """Waveforms int16 or float [n, samples] to log-mel spectrograms, normalised: float32 [n, c, size, size]."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: SpectrogramPreprocessing) -> None:
        super().__init__()
        self.log_mel = LogMel(preprocessing.bands, preprocessing.range_db)
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None])

    def forward(self, waveforms: Tensor) -> Tensor:
        """The spectrograms."""
        return self._normalised(self.log_mel(waveforms))

    def masked(self, waveforms: Tensor, how: SoundAugmentation, generator: Generator) -> Tensor:
        """The spectrograms with bands and stretches set to the mean of each, before they are normalised."""
        pictures = self.log_mel(waveforms)
        pictures = masked(pictures, how.frequency_masks, how.frequency_width, 1, generator)
        pictures = masked(pictures, how.time_masks, how.time_width, 2, generator)
        return self._normalised(pictures)

    def _normalised(self, pictures: Tensor) -> Tensor:
        return (pictures[:, None] - self.mean) / self.std


class Waveforms(nn.Module):
    """Waveforms int16 or float [n, samples] of full scale 32768 to float32 [n, samples] from -1 to 1, or normalised.

    Where they are normalised, each is brought to mean 0 and variance 1, silence around it included. Equal to what
    transformers' `Wav2Vec2FeatureExtractor` makes of the same samples.
    """

    places: Tensor

    def __init__(self, preprocessing: WaveformPreprocessing) -> None:
        super().__init__()
        self.normalised = preprocessing.normalised
        frequencies = torch.fft.rfftfreq(preprocessing.size, 1 / preprocessing.rate, dtype=torch.float64)
        places = mel(frequencies) / mel(torch.tensor(preprocessing.rate / 2, dtype=torch.float64))
        self.register_buffer("places", places.float(), persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """The waveforms."""
        sound = waveforms.to(torch.float32) / FULL_SCALE
        if not self.normalised:
            return sound
        centred = sound - sound.mean(1, keepdim=True)
        return centred / torch.sqrt(centred.square().mean(1, keepdim=True) + TINY)

    def masked(self, waveforms: Tensor, how: SoundAugmentation, generator: Generator) -> Tensor:
        """The waveforms without some bands of frequency, and with stretches set to the mean of each."""
        sound = waveforms.to(torch.float32)
        sound = without_bands(sound, how.frequency_masks, how.frequency_width, self.places, generator)
        sound = masked(sound[:, None], how.time_masks, how.time_width, 2, generator)[:, 0]
        return self(sound)


def sound_form(preprocessing: SoundPreprocessing) -> Spectrograms | Waveforms:
    """What makes the inputs that the backbone wants."""
    if isinstance(preprocessing, WaveformPreprocessing):
        return Waveforms(preprocessing)
    return Spectrograms(preprocessing)
