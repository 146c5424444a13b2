"""What a batch of sounds goes through between the loader and the network."""

import torch
from torch import Generator, Tensor

from graft.batch import LabelledBatch
from graft.data.augment import mix
from graft.data.log_mel import LogMel
from graft.data.sound_augment import SoundAugmentation, masked, noisy, shifted
from graft.data.sound_preprocessing import SoundPreprocessing


class SoundView:
    """Shifts, adds noise, computes spectrograms, masks and normalises whole batches on the device they are on.

    Args:
        preprocessing: what the backbone wants.
        augmentation: what is random in training; None trains on the view that evaluation uses.
        num_classes: k, for the labels of mixed sounds.
    """

    def __init__(
        self, preprocessing: SoundPreprocessing, augmentation: SoundAugmentation | None, num_classes: int
    ) -> None:
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.num_classes = num_classes
        self.log_mel = LogMel(preprocessing.bands, preprocessing.range_db)
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float32)[:, None, None]
            for values in (preprocessing.mean, preprocessing.std)
        )

    def train(self, batch: LabelledBatch, generator: Generator) -> LabelledBatch:
        """Random views [n, c, size, size] of sounds int16 [n, samples]; every draw is from `generator`.

        Labels become class probabilities [n, k] where sounds are mixed, and stay class indices [n] elsewhere.
        """
        how, y = self.augmentation, batch.y
        x = self.unmixed(batch.x, generator)
        if how is not None and how.mixup:
            x, y = mix(x, y, self.num_classes, how.mixup, 0.0, generator)
        return batch._replace(x=x, y=y)

    def unmixed(self, x: Tensor, generator: Generator) -> Tensor:
        """Random views [n, c, size, size] of sounds, each of one alone; every draw is from `generator`."""
        how = self.augmentation
        if how is None:
            return self.evaluate(x)
        if how.shift:
            x = shifted(x, round(how.shift * self.preprocessing.rate), generator)
        if how.noise is not None:
            x = noisy(x.to(torch.float32), how.noise, generator)
        pictures = self._spectrograms(x)
        pictures = masked(pictures, how.frequency_masks, how.frequency_width, 1, generator)
        pictures = masked(pictures, how.time_masks, how.time_width, 2, generator)
        return self._normalise(pictures)

    def evaluate(self, x: Tensor) -> Tensor:
        """The fixed view: the spectrogram of the sound as it is, [n, c, size, size]."""
        return self._normalise(self._spectrograms(x))

    def _spectrograms(self, x: Tensor) -> Tensor:
        """[n, bands, frames], whatever precision is used around."""
        if self.log_mel.taper.device != x.device:
            self.log_mel.to(x.device)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            pictures: Tensor = self.log_mel(x)
        return pictures

    def _normalise(self, pictures: Tensor) -> Tensor:
        if self.mean.device != pictures.device:
            self.mean, self.std = self.mean.to(pictures.device), self.std.to(pictures.device)
        return ((pictures[:, None] - self.mean) / self.std).to(torch.get_default_dtype())
