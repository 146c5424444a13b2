"""What a batch goes through between the loader and the network."""

import torch
from torch import Generator, Tensor

from graft.batch import LabelledBatch
from graft.data.augment import Augmentation, centre_crop, coin, mix, random_crop, random_resized_crop
from graft.data.preprocessing import Preprocessing


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

    def train(self, batch: LabelledBatch, generator: Generator) -> LabelledBatch:
        """Random views [n, c, size, size] of canvases uint8 [n, c, canvas, canvas]; every draw is from `generator`.

        Labels become class probabilities [n, k] where images are mixed, and stay class indices [n] elsewhere.
        """
        how = self.augmentation
        if how is None:
            return batch._replace(x=self.evaluate(batch.x))
        x, y = self.normalise(self._place(batch.x, how, generator)), batch.y
        if how.mixup or how.cutmix:
            x, y = mix(x, y, self.num_classes, how.mixup, how.cutmix, generator)
        return LabelledBatch(x, y, batch.positions)

    def evaluate(self, x: Tensor) -> Tensor:
        """The fixed view: the canvas' centre [n, c, size, size], scaled and normalised."""
        return self.normalise(centre_crop(x, self.preprocessing.size))

    def normalise(self, x: Tensor) -> Tensor:
        """Values 0..255 to the backbone's scale, computed in float32 and given in the default float type."""
        mean, std = (
            torch.tensor(values, dtype=torch.float32).to(x.device, non_blocking=True).view(1, -1, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        return ((x.float() / 255 - mean) / std).to(torch.get_default_dtype())

    def _place(self, x: Tensor, how: Augmentation, generator: Generator) -> Tensor:
        """Where in the canvas each view lies, and which are mirrored."""
        size = self.preprocessing.size
        flip = coin(len(x), generator) if how.flip else torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if how.resized_crop is not None:
            return random_resized_crop(x.float(), size, how.resized_crop, flip, generator)
        if how.crop_padding:
            return random_crop(x, size, how.crop_padding, flip, generator)
        x = centre_crop(x, size)
        return torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)
