"""What a batch goes through between the loader and the network."""

import numpy as np
import torch
from torch import Generator, Tensor

from graft.batch import LabelledBatch
from graft.data.augment import Augmentation, mix
from graft.data.batchwise import Cut, assemble, write
from graft.data.colour import jitter_colour
from graft.data.compiled import scale_and_shift
from graft.data.crops import centre_crop, mirror, random_crop, random_resized_crop
from graft.data.draws import coin
from graft.data.preprocessing import Preprocessing
from graft.data.rotation import rotate_randomly


class View:
    """Crops, augments and normalises whole batches on the device they are on.

    Args:
        preprocessing: what the backbone wants.
        augmentation: what is random in training; None trains on the view that evaluation uses.
        num_classes: k, for the labels of mixed images.
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: Augmentation | None, num_classes: int) -> None:
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.num_classes = num_classes
        mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
        self.scale, self.shift = (
            torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1).repeat(1, preprocessing.size, preprocessing.size)
            for values in (1 / (255 * std), -mean / std)
        )  # [c, size, size]

    def train(self, batch: LabelledBatch, generator: Generator) -> LabelledBatch:
        """Random views [n, c, size, size] of canvases uint8 [n, c, canvas, canvas]; every draw is from `generator`.

        Labels become class probabilities [n, k] where images are mixed, and stay class indices [n] elsewhere.
        """
        how, y = self.augmentation, batch.y
        x = self.unmixed(batch.x, generator)
        if how is not None and (how.mixup or how.cutmix):
            x, y = mix(x, y, self.num_classes, how.mixup, how.cutmix, generator)
        return batch._replace(x=x, y=y)

    def unmixed(self, x: Tensor, generator: Generator) -> Tensor:
        """Random views [n, c, size, size] of canvases, each of one image alone; every draw is from `generator`."""
        how = self.augmentation
        if how is None:
            return self.evaluate(x)
        cut = self._place(x, how, generator)
        shape, device = (*x.shape[:2], self.preprocessing.size, self.preprocessing.size), x.device
        if how.rotation:
            cut = as_they_are(rotate_randomly(assemble(cut, shape, device), how.rotation, generator))
        if how.changes_colour:
            uncoloured = assemble(cut, shape, device)
            cut = as_they_are(jitter_colour(uncoloured, how.brightness, how.contrast, how.saturation, generator))
        return self._normalise(cut, shape, device)

    def evaluate(self, x: Tensor) -> Tensor:
        """The fixed view: the canvas' centre [n, c, size, size], scaled and normalised."""
        size = self.preprocessing.size
        return self._normalise(
            lambda piece, out: write(centre_crop(x[piece], size), out), (*x.shape[:2], size, size), x.device
        )

    def _normalise(self, cut: Cut, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Values 0..255 to the backbone's scale, computed in float32 and given in the default float type."""
        if self.scale.device != device:
            self.scale, self.shift = self.scale.to(device), self.shift.to(device)
        if device.type == "cpu":
            x = scale_and_shift(cut, shape, self.scale, self.shift)
        else:
            x = torch.addcmul(self.shift, assemble(cut, shape, device), self.scale)
        return x.to(torch.get_default_dtype())

    def _place(self, x: Tensor, how: Augmentation, generator: Generator) -> Cut:
        """Where in the canvas each view lies, and which are mirrored."""
        size = self.preprocessing.size
        flip = coin(len(x), generator) if how.flip else torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if how.resized_crop is not None:
            return random_resized_crop(x, size, how.resized_crop, flip, generator)
        if how.crop_padding:
            return random_crop(x, size, how.crop_padding, flip, generator)
        return lambda piece, out: write(mirror(centre_crop(x[piece], size), flip[piece]), out)


def as_they_are(x: Tensor) -> Cut:
    """Images [n, c, h, w] that nothing more is cut from."""
    return lambda piece, out: write(x[piece], out)
