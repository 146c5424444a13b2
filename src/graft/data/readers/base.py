"""What every reader returns: samples and labels as they are stored, and a hash of their content."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np

from graft.data.threaded import map_all, num_cores


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be read, or a line of it."""

    path: Path
    reason: str
    line: int | None = None  # counted from 1; None: the whole file

    def __str__(self) -> str:
        return f"{self.place(self.path)} ({self.reason})"

    def place(self, path: Path) -> str:
        """The file under the name `path`, with the line.

        >>> Unreadable(Path("/data/a.csv"), "no label", line=3).place(Path("a.csv"))
        'a.csv:3'
        """
        return path.as_posix() if self.line is None else f"{path.as_posix()}:{self.line}"


@dataclass(frozen=True)
class RawSplit:
    """Samples with their labels, before anything is resized, cut or split into tokens.

    Samples are images, uint8 [n, h, w] or [n, h, w, c] with c of 1 or 3; or waveforms, int16 [n, samples]; or files of
    either; or texts.
    """

    samples: np.ndarray | Sequence[Path] | Sequence[str]
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
    root: Path | None = None  # folder that files are named relative to
    modality: str = "image"  # what kind the samples are (`data.modalities`)
    broken: tuple[Unreadable, ...] = ()  # what the reader itself could not read, and left out

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
        """Read it whole; files of one sample each are listed and hashed, not decoded.

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
    """Hash of splits in order and of the class names: of files of their bytes, not of their names."""
    parts: list[str | np.ndarray] = list(class_names)
    for split in splits:
        if split is None:
            parts.append("none")
        elif isinstance(split.samples, np.ndarray):
            parts += [split.samples, split.labels]
        else:
            parts += [*_hashes(split.samples), split.labels]
    return hash_parts(*parts)


def _hashes(samples: Sequence[Path] | Sequence[str]) -> list[str]:
    """The texts themselves, or hashes of the files."""
    texts = [sample for sample in samples if isinstance(sample, str)]
    paths = [sample for sample in samples if isinstance(sample, Path)]
    return texts or map_all(lambda path: blake2b(path.read_bytes(), digest_size=20).hexdigest(), paths, num_cores())
