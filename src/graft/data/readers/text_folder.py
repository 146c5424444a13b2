"""Text files in folders: one folder per class, perhaps below one folder per split or per domain."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.data.class_folders import ClassFolders, FileKind
from graft.data.readers.base import RawDataset, RawSplit, Unreadable, hash_splits

TEXTS = FileKind("texts", (".txt",))
LARGEST = 2**22  # bytes; a larger file is no text that a network reads


@dataclass(frozen=True)
class TextFolder:
    """Text files in the class folders of `path`, or of its domain folders (`ClassFolders` says how they may lie).

    `read` raises `UserError` where the folder, the domain or the classes are missing, where a class is empty, where
    splits or domains differ in their classes, and for a single class. Empty files, files of more than 4 MiB and bytes
    of another encoding are named.
    """

    path: str | Path
    domain: str | Sequence[str] | None = None
    encoding: str = "utf-8"

    def version(self) -> Hashable:
        """Changes with the files: one written, replaced, added or taken away."""
        return self._folders.version()

    def read(self) -> RawDataset:
        """Read every file."""
        files, class_names = self._folders.list_files()
        broken: list[Unreadable] = []
        splits = {name: read_texts(split, self.encoding, broken) for name, split in files.items()}
        train, test, val = splits["train"], splits.get("test"), splits.get("val")
        fingerprint = hash_splits([train, test, val], class_names)
        return RawDataset(train, test, val, class_names, fingerprint, self._folders.root, "text", tuple(broken))

    @property
    def _folders(self) -> ClassFolders:
        return ClassFolders(self.path, self.domain, TEXTS)


def read_texts(files: RawSplit, encoding: str, broken: list[Unreadable]) -> RawSplit:
    """The texts in a split's files; those that cannot be read are left out, and added to `broken`."""
    found = [read_text(Path(path), encoding) for path in files.samples]
    broken += [text for text in found if isinstance(text, Unreadable)]
    kept = [isinstance(text, str) for text in found]
    return RawSplit([text for text in found if isinstance(text, str)], files.labels[kept])


def read_text(path: Path, encoding: str = "utf-8") -> str | Unreadable:
    """The text in a file without the white space around it, or what is wrong with it."""
    try:
        if path.stat().st_size > LARGEST:
            return Unreadable(path, f"more than {LARGEST:,} bytes")
        text = path.read_bytes().decode(encoding).removeprefix("\ufeff").strip()
    except UnicodeDecodeError as error:
        return Unreadable(path, f"byte 0x{error.object[error.start]:02x} is not {encoding}")
    except (OSError, LookupError) as error:
        return Unreadable(path, getattr(error, "strerror", None) or str(error))
    return text or Unreadable(path, "an empty text")
