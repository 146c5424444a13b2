"""Sound files in folders: one folder per class, perhaps below one folder per split or per domain, such as a speaker."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.data.class_folders import ClassFolders, FileKind
from graft.data.readers.base import RawDataset
from graft.data.waveforms import SUFFIXES

SOUNDS = FileKind("sounds", SUFFIXES)


@dataclass(frozen=True)
class AudioFolder:
    """Sounds in the class folders of `path`, or of its domain folders (`ClassFolders` says how they may lie).

    `read` raises `UserError` where the folder, the domain or the classes are missing, where a class is empty, where
    splits or domains differ in their classes, and for a single class.
    """

    path: str | Path
    domain: str | Sequence[str] | None = None

    def version(self) -> Hashable:
        """Changes with the sound files: one written, replaced, added or taken away."""
        return self._folders.version()

    def read(self) -> RawDataset:
        """List the sound files; they are opened for the fingerprint only."""
        return self._folders.read("audio")

    @property
    def _folders(self) -> ClassFolders:
        return ClassFolders(self.path, self.domain, SOUNDS)
