"""What a batch of sounds goes through between the loader and the network."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from graft.batch import LabelledBatch
from graft.data.augment import mix
from graft.data.sound_augment import SoundAugmentation, noisy, shifted
from graft.data.sound_forms import sound_form
from graft.data.sound_preprocessing import SoundPreprocessing


class SoundView:
    """Shifts, adds noise, computes spectrograms where such are wanted, masks and normalises whole batches.

    All on the device they are on. Inputs are [n, c, size, size] for a backbone that sees spectrograms, [n, samples] for
    one that hears waveforms.

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
        self.form = sound_form(preprocessing)

    def train(self, batch: LabelledBatch, generator: Generator) -> LabelledBatch:
        """Random views of sounds int16 [n, samples]; every draw is from `generator`.

        Labels become class probabilities [n, k] where sounds are mixed, and stay class indices [n] elsewhere.
        """
        how, y = self.augmentation, batch.y
        x = self.unmixed(batch.x, generator)
        if how is not None and how.mixup:
            x, y = mix(x, y, self.num_classes, how.mixup, 0.0, generator)
        return batch._replace(x=x, y=y)

    def unmixed(self, x: Tensor, generator: Generator) -> Tensor:
        """Random views of sounds int16 [n, samples], each of one alone; every draw is from `generator`."""
        how = self.augmentation
        if how is None:
            return self.evaluate(x)
        if how.shift:
            x = shifted(x, round(how.shift * self.preprocessing.rate), generator)
        if how.noise is not None:
            x = noisy(x.to(torch.float32), how.noise, generator)
        return self._made(x, lambda sounds: self.form.masked(sounds, how, generator))

    def evaluate(self, x: Tensor) -> Tensor:
        """The fixed view of sounds int16 [n, samples]: as they are."""
        return self._made(x, self.form)

    def _made(self, x: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Inputs of the default type, computed in float32 whatever precision is used around."""
        if next(self.form.buffers()).device != x.device:
            self.form.to(x.device)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return make(x).to(torch.get_default_dtype())
