"""The store: pretrained backbones and finished baselines, found by content hash."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from graft.errors import UserError
from graft.records.files import (
    LockHeldError,
    announced_lock,
    atomic_write_json,
    file_lock,
    read_json,
    sync_folder,
    temporary_beside,
)
from graft.records.hashing import file_sha256

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class Store:
    """Entries are folders `<root>/<kind>/<key[:2]>/<key>`; one appears under its name only when it is whole.

    A manifest in the entry holds the SHA-256 of each of its files; an entry that does not match is moved to
    `<root>/damaged` and made again.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._made: set[tuple[str, str]] = set()

    def entry(self, kind: str, key: str) -> Path | None:
        """The entry's folder, None where there is none that is whole."""
        folder = self._folder(kind, key)
        if not folder.is_dir():
            return None
        if find_damage(folder) is None:
            return folder
        with self.lock(kind, key):  # nobody else may be making it again meanwhile
            return self._whole(kind, key)

    def get_or_make(self, kind: str, key: str, fill: Callable[[Path], None]) -> Path:
        """The entry's folder; where there is none, `fill` writes one into an empty folder.

        Several processes that ask at once do the work once: the others wait, and take over if the first one dies.
        """
        with self.held(kind, key, fill) as folder:
            return folder

    def made(self, kind: str, key: str) -> bool:
        """Whether an entry was made through this very object, neither found nor waited for."""
        return (kind, key) in self._made

    @contextmanager
    def held(self, kind: str, key: str, fill: Callable[[Path], None]) -> Iterator[Path]:
        """As `get_or_make`, with the entry safe from `make_room` until the block ends; marks it as used."""
        with self.lock(kind, key):
            folder = self._whole(kind, key) or self._make(kind, key, fill)
            os.utime(folder / MANIFEST)
            yield folder

    def make_room(self, kind: str, limit: int, needed: int) -> None:
        """Remove entries of a kind, those longest unused first, until `needed` more bytes fit in `limit`.

        Entries that another process is at work on are passed over.
        """
        entries = sorted(self.root.glob(f"{kind}/*/*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
        sizes = {path.parent: size_of(path.parent) for path in entries}
        excess = sum(sizes.values()) + needed - limit
        for folder, size in sizes.items():
            if excess <= 0:
                return
            with suppress(LockHeldError), file_lock(self._lock_path(kind, folder.name), wait=False):
                shutil.rmtree(folder, ignore_errors=True)
                excess -= size

    @contextmanager
    def lock(self, kind: str, key: str) -> Iterator[None]:
        """Be the only one at work on an entry; says so where that means waiting."""
        waiting = f"store: waiting for another run that makes {kind}/{key[:12]}"
        with announced_lock(self._lock_path(kind, key), waiting):
            yield

    def _whole(self, kind: str, key: str) -> Path | None:
        folder = self._folder(kind, key)
        if not folder.is_dir():
            return None
        damage = find_damage(folder)
        if damage is None:
            return folder
        aside = self._set_aside(folder)
        log.warning("store: %s/%s is damaged (%s); moved to %s", kind, key[:12], damage, aside)
        return None

    def _make(self, kind: str, key: str, fill: Callable[[Path], None]) -> Path:
        folder = self._folder(kind, key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left_by_the_dead in folder.parent.glob(f".{key}.*"):
            shutil.rmtree(left_by_the_dead, ignore_errors=True)
        partial = temporary_beside(folder)
        partial.mkdir()
        try:
            fill(partial)
            seal(partial)
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(folder.parent)
        self._made.add((kind, key))
        return folder

    def _lock_path(self, kind: str, key: str) -> Path:
        return self.root / "locks" / f"{kind}-{key}.lock"

    def _folder(self, kind: str, key: str) -> Path:
        assert re.fullmatch(r"[0-9a-f]{8,}", key), key
        return self.root / kind / key[:2] / key

    def _set_aside(self, folder: Path) -> Path:
        aside = self.root / "damaged"
        aside.mkdir(parents=True, exist_ok=True)
        destination = aside / f"{folder.name[:12]}-{uuid4().hex[:8]}"
        os.replace(folder, destination)
        return destination


def size_of(folder: Path) -> int:
    """Bytes of the files in an entry."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def seal(folder: Path) -> None:
    """Write the manifest of a filled entry, and bring every file to disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    manifest = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    atomic_write_json(folder / MANIFEST, manifest)
    for parent in {folder, *(path.parent for path in files)}:
        sync_folder(parent)


def find_damage(folder: Path) -> str | None:
    """What is wrong with an entry, None if nothing is."""
    try:
        manifest = read_json(folder / MANIFEST)
    except UserError:
        manifest = None
    if not isinstance(manifest, dict):
        return f"no readable {MANIFEST}"
    for name, digest in manifest.items():
        try:
            if file_sha256(folder / name) != digest:
                return f"{name} has changed"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None
