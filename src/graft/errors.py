"""Errors meant for the person at the terminal."""

import errno
import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what was given and what was expected."""


class LostJobError(Exception):
    """The process of a sweep's job ended before it did, and could not say why."""


class PrunedError(Exception):
    """A run was ended early by the search that it belongs to."""

    def __init__(self, epoch: int, metric: str, value: float) -> None:
        super().__init__(epoch, metric, value)
        self.epoch = epoch  # the last one, counted from 1
        self.metric = metric
        self.value = value


NOT_WRITTEN = tuple(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM") if hasattr(errno, name)
)


def storage_error(error: BaseException) -> OSError | None:
    """What kept a file from being written, where an error comes of that: no room, no permission.

    None otherwise, and for a `UserError`, which says it itself.
    """
    if isinstance(error, UserError):
        return None
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in NOT_WRITTEN:
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def of_file(error: OSError, path: Path | None = None) -> str:
    """A file and what is wrong with it, in a line.

    >>> of_file(OSError(errno.ENOSPC, "No space left on device"), Path("a/b"))
    'a/b: No space left on device'
    """
    where = error.filename if error.filename is not None else path
    reason = error.strerror or os.strerror(error.errno or 0)
    return f"{where}: {reason}" if where is not None else reason


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, or None when nothing is alike.

    >>> nearest("gradual_unfreez", ["gradual_unfreeze", "scratch"])
    'gradual_unfreeze'
    """
    by_lowercase = {choice.lower(): choice for choice in choices}
    matches = get_close_matches(name.lower(), by_lowercase, n=1, cutoff=0.6)
    return by_lowercase[matches[0]] if matches else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A closing phrase for an error: the nearest name, or the list of names where none is near."""
    choices = sorted(choices)
    match = nearest(name, choices)
    if match:
        return f"did you mean {match!r}?"
    return f"expected one of: {', '.join(choices)}"


def nearest_path(path: Path) -> str:
    """A closing phrase for an error about a path that does not exist: the sibling it may stand for, or nothing."""
    while not path.parent.exists():
        path = path.parent
    match = nearest(path.name, (sibling.name for sibling in path.parent.iterdir())) if path.parent.is_dir() else None
    return f"; did you mean {str(path.parent / match)!r}?" if match else ""


def listed(names: Iterable[str], most: int) -> str:
    """Names in a line, cut after `most`.

    >>> listed(["ant", "bee", "cat"], most=2)
    'ant, bee and 1 more'
    """
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
