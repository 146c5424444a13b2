"""Whether files have changed, told without reading them."""

import os
from collections.abc import Hashable, Iterable
from pathlib import Path


def state_of(path: str | Path) -> tuple[int, int, int, int]:
    """What changes whenever a file is written or replaced: inode, size, times of its content and of its entry.

    Raises:
        OSError: there is no such file.
    """
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def file_version(path: str | Path) -> Hashable:
    """The state of a file; None where there is none."""
    try:
        return state_of(path)
    except OSError:
        return None


def files_version(paths: Iterable[Path]) -> Hashable:
    """Changes whenever one of some files does, or one is added or taken away."""
    return tuple((str(path), file_version(path)) for path in paths)


def tree_version(root: Path) -> Hashable:
    """Changes whenever a file below a folder does; None where links lead out of it, or where there is no folder."""
    found: list[Hashable] = []
    for here, folders, names in os.walk(root):
        if any(Path(here, name).is_symlink() for name in folders):
            return None
        folders.sort()
        found += [here, files_version(Path(here, name) for name in sorted(names))]
    return tuple(found) or None
