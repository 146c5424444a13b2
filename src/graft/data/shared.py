"""Decoded data that the jobs of one process share, so that a sweep reads each domain once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graft.data.images import Images
from graft.data.readers.base import Reader, Unreadable

MAX_BYTES = 2**31  # opened samples that stay in memory when nobody uses them
MAX_DATASETS = 16


@dataclass(frozen=True)
class Decoded:
    """A data set opened, before it is split; nobody changes it."""

    class_names: tuple[str, ...]
    fingerprint: str  # of the data
    root: Path | None  # folder that files are named relative to
    splits: dict[str, tuple[Images, np.ndarray]]  # samples and labels [n] of each split that the data come with
    broken: list[Unreadable]  # what could not be read and is in no split

    @property
    def num_bytes(self) -> int:
        """At most so much memory do the samples take."""
        held = (value for images, _ in self.splits.values() for value in vars(images).values())
        return sum(value.nbytes for value in held if hasattr(value, "nbytes"))


_known: OrderedDict[Hashable, tuple[Hashable, Decoded]] = OrderedDict()  # the one used last comes last


def shared(reader: Reader, how: Hashable, decode: Callable[[], Decoded]) -> Decoded:
    """What `decode` returns; what it returned before, where the reader says that nothing has changed since.

    Args:
        reader: where the data come from. It is asked for its `version()`; data of a reader that has none are read
            each time.
        how: everything beside the reader that decides the result.
        decode: reads and decodes.
    """
    version = reader.version() if hasattr(reader, "version") else None
    if version is None:
        return decode()
    key = (type(reader), repr(sorted(vars(reader).items())), how)
    before, found = _known.pop(key, (None, None))
    if found is None or before != version:
        found = decode()
    _known[key] = (version, found)  # the version was taken before reading: a change meanwhile is seen next time
    _forget_oldest()
    return found


def _forget_oldest() -> None:
    while _known and (len(_known) > MAX_DATASETS or sum(found.num_bytes for _, found in _known.values()) > MAX_BYTES):
        _known.popitem(last=False)
