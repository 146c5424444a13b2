"""Real handwritten digits that ship with scikit-learn."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from graft.data.readers.base import RawDataset, RawSplit, hash_splits

NUM_LEVELS = 16  # grey values are 0..16


class Digits:
    """Reads the 1,797 images of 8 x 8 pixels of the UCI optical recognition set; it has no test split of its own."""

    def version(self) -> str:
        """The same for ever."""
        return "bundled"

    def read(self) -> RawDataset:
        """All images as one training split."""
        rows = np.loadtxt(digits_file(), delimiter=",")  # 64 grey values and the label
        images = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / NUM_LEVELS)).astype(np.uint8)
        train = RawSplit(images, rows[:, -1].astype(np.int64))
        class_names = tuple(str(digit) for digit in range(10))
        return RawDataset(train, None, None, class_names, hash_splits((train,), class_names))


def digits_file() -> Path:
    """The file that `sklearn.datasets.load_digits` reads, found without importing scikit-learn, which is slow."""
    spec = find_spec("sklearn")
    assert spec is not None, "scikit-learn is a dependency"
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
