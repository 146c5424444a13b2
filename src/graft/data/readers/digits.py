"""Real handwritten digits that ship with scikit-learn."""

import numpy as np
from sklearn.datasets import load_digits

from graft.data.readers.base import RawDataset, RawSplit, hash_splits

NUM_LEVELS = 16  # grey values are 0..16


class Digits:
    """Reads the 1,797 images of 8 x 8 pixels of the UCI optical recognition set; it has no test split of its own."""

    def version(self) -> str:
        """The same for ever."""
        return "bundled"

    def read(self) -> RawDataset:
        """All images as one training split."""
        digits = load_digits()
        images = np.rint(digits.images * (255 / NUM_LEVELS)).astype(np.uint8)
        train = RawSplit(images, digits.target.astype(np.int64))
        class_names = tuple(str(name) for name in digits.target_names)
        return RawDataset(train, None, None, class_names, hash_splits((train,), class_names))
