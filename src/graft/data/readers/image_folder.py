"""Image files in folders: one folder per class, perhaps below one folder per split or per domain."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from graft.data.class_folders import ClassFolders, FileKind
from graft.data.content_index import ContentIndex, hash_files
from graft.data.readers.base import RawDataset
from graft.records.hashing import content_hash

IMAGES = FileKind("images", IMG_EXTENSIONS)


@dataclass(frozen=True)
class ImageFolder:
    """Images in the class folders of `path`, or of its domain folders (`ClassFolders` says how they may lie).

    `read` raises `UserError` where the folder, the domain or the classes are missing, where a class is empty, where
    splits or domains differ in their classes, and for a single class.

    Args:
        path: the folder.
        domain: which of its domain folders, one or several; None where there are none.
        index: folder in which the files' hashes are kept (`ContentIndex`); None reads all files at each start.
    """

    path: str | Path
    domain: str | Sequence[str] | None = None
    index: str | Path | None = None

    def version(self) -> Hashable:
        """Changes with the image files: one written, replaced, added or taken away."""
        return self._folders.version()

    def read(self) -> RawDataset:
        """List the image files; they are opened for the fingerprint only, and not where the index knows them."""
        return self._folders.read("image", self._hashes)

    def _hashes(self, names: list[str]) -> np.ndarray:
        if self.index is None:
            return hash_files(names)
        place = content_hash([str(self._folders.root.absolute()), self.domain])[:16]
        return ContentIndex(Path(self.index).expanduser() / f"{place}.npz").hashes(names)

    @property
    def _folders(self) -> ClassFolders:
        return ClassFolders(self.path, self.domain, IMAGES)
