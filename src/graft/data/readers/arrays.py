"""Arrays in one `.npz` file."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from graft.data.protocol import by_protocol
from graft.data.readers.base import RawDataset, RawSplit, hash_splits
from graft.data.versions import file_version
from graft.errors import UserError, did_you_mean, nearest_path

SPLITS = ("train", "test", "val")
KEYS = (*(f"{part}_{split}" for split in SPLITS for part in "xy"), "class_names")
MOST_BYTES, MOST_TIMES = 2**28, 200  # an array that is both larger than the one and packed tighter than the other


def refuse_bomb(path: Path) -> None:
    """A few bytes may claim to be gigabytes; images are not packed like that.

    Raises:
        ValueError: an array that would fill the memory with next to nothing.
    """
    with ZipFile(path) as parts:
        for part in parts.infolist():
            if part.file_size > max(MOST_BYTES, MOST_TIMES * part.compress_size):
                raise ValueError(f"{part.filename} claims {part.file_size:,} bytes in {part.compress_size:,}")


class Arrays:
    """Reads `x_train y_train [x_test y_test] [x_val y_val] [class_names]`.

    Images `x` are uint8, [n, h, w] or [n, h, w, c] with c of 1 or 3; labels `y` are class indices [n]. Nothing is
    unpickled.

    Args:
        path: the file.
        margin, pool_splits: as `by_protocol` has them.
    """

    def __init__(self, path: str, margin: int = 0, pool_splits: bool = False) -> None:
        self.path = Path(path).expanduser()
        self.margin = margin
        self.pool_splits = pool_splits

    def version(self) -> Hashable:
        """Changes with the file."""
        return file_version(self.path)

    def read(self) -> RawDataset:
        """Read and check the file.

        Raises:
            UserError: no such file, a damaged one, or arrays that do not fit together; no such margin.
        """
        arrays = self._load()
        unknown = [key for key in arrays if key not in KEYS]
        if "x_train" not in arrays or unknown:
            named = unknown[0] if unknown else "x_train"
            problem = f"unknown array {named!r}; {did_you_mean(named, KEYS)}" if unknown else "holds no array 'x_train'"
            raise UserError(f"path={self.path}: {problem}")
        splits = {split: self._split(arrays, split) for split in SPLITS if f"x_{split}" in arrays}
        class_names = self._class_names(arrays, splits["train"])
        splits = by_protocol(splits, self.margin, self.pool_splits)
        train, test, val = splits["train"], splits.get("test"), splits.get("val")
        return RawDataset(train, test, val, class_names, hash_splits((train, test, val), class_names))

    def _load(self) -> dict[str, np.ndarray]:
        if not self.path.is_file():
            problem = "is a folder; expected a .npz file" if self.path.is_dir() else "no such file"
            raise UserError(f"path={self.path}: {problem}{nearest_path(self.path)}")
        try:
            refuse_bomb(self.path)
            # Opened here, or NumPy leaves a damaged file open.
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # NumPy raises whatever damage leads it to: zlib.error, MemoryError, ...
            raise UserError(f"path={self.path}: not a readable .npz file of plain arrays ({error})") from error

    def _split(self, arrays: dict[str, np.ndarray], split: str) -> RawSplit:
        x, y = arrays[f"x_{split}"], arrays.get(f"y_{split}")
        if y is None:
            raise UserError(f"path={self.path}: x_{split} has no labels y_{split}")
        if (
            x.dtype != np.uint8
            or x.ndim not in (3, 4)
            or (x.ndim == 4 and x.shape[3] not in (1, 3))
            or 0 in x.shape[1:]
        ):
            raise self._refusal(f"x_{split}", x, "uint8 [n, h, w] or [n, h, w, c] with c of 1 or 3")
        if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
            raise self._refusal(f"y_{split}", y, "integer class indices [n]")
        if len(x) != len(y):
            raise UserError(f"path={self.path}: x_{split} holds {len(x)} images, but y_{split} {len(y)} labels")
        if len(y) and y.min() < 0:
            raise UserError(f"path={self.path}: y_{split} holds the label {y.min()}; expected class indices from 0")
        return RawSplit(x, y.astype(np.int64))

    def _refusal(self, name: str, array: np.ndarray, expected: str) -> UserError:
        return UserError(f"path={self.path}: {name} is {array.dtype} {list(array.shape)}; expected {expected}")

    def _class_names(self, arrays: dict[str, Any], train: RawSplit) -> tuple[str, ...]:
        num_found = int(train.labels.max()) + 1 if len(train) else 0
        if "class_names" not in arrays:
            return tuple(str(label) for label in range(num_found))
        names = tuple(str(name) for name in arrays["class_names"].reshape(-1))
        if num_found > len(names):
            raise UserError(
                f"path={self.path}: y_train holds the label {num_found - 1}, but class_names {len(names)} names"
            )
        return names
