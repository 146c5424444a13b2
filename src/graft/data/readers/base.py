"""What every reader returns: images and labels as they are stored, and a hash of their content."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np

from graft.data.threaded import map_all, num_cores


@dataclass(frozen=True)
class RawSplit:
    """Images with their labels, before anything is resized."""

    images: np.ndarray | Sequence[Path]  # uint8 [n, h, w] or [n, h, w, c] with c of 1 or 3, or image files
    labels: np.ndarray  # int64 [n], positions in the dataset's class_names

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class RawDataset:
    """A data set as its reader found it; splits that it does not come with are None."""

    train: RawSplit
    test: RawSplit | None
    val: RawSplit | None
    class_names: tuple[str, ...]
    fingerprint: str  # hash of the content, whatever the place it was read from
    root: Path | None = None  # folder that image files are named relative to

    @property
    def splits(self) -> dict[str, RawSplit]:
        """The splits that the data set comes with, by name."""
        splits = {"train": self.train, "test": self.test, "val": self.val}
        return {name: split for name, split in splits.items() if split is not None}


class Reader(Protocol):
    """Reads one data set.

    A reader may have `version() -> Hashable`, which is quick and changes whenever `read` would return something else
    for the same settings; None says that it cannot tell. The jobs of a process then share what was read.
    """

    def read(self) -> RawDataset:
        """Read it whole; image files are listed and hashed, not decoded.

        Raises:
            UserError: what the user pointed at is missing, damaged or not of the expected layout.
        """


def hash_parts(*parts: str | np.ndarray) -> str:
    """Hash of strings and arrays, in hex: dtype, shape and values."""
    digest = blake2b(digest_size=20)
    for part in parts:
        if isinstance(part, str):
            digest.update(f"str {len(part)} {part}".encode())
        else:
            digest.update(f"{part.dtype.str} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def hash_splits(splits: Iterable[RawSplit | None], class_names: tuple[str, ...]) -> str:
    """Hash of splits in order and of the class names: for image files of their bytes, not of their names."""
    parts: list[str | np.ndarray] = list(class_names)
    for split in splits:
        if split is None:
            parts.append("none")
        elif isinstance(split.images, np.ndarray):
            parts += [split.images, split.labels]
        else:
            parts += [*_hash_files(split.images), split.labels]
    return hash_parts(*parts)


def _hash_files(paths: Sequence[Path]) -> list[str]:
    return map_all(lambda path: blake2b(path.read_bytes(), digest_size=20).hexdigest(), paths, num_cores())
