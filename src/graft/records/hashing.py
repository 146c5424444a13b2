"""Names made from content."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any


def content_hash(value: Any) -> str:
    """SHA-256, in hex, of plain values: dicts with string keys, lists, tuples, strings, numbers, booleans, None.

    The order of a dict's keys does not matter; tuples and lists are alike. 1, 1.0 and True differ, as they do where a
    limit is one batch or all of them.

    Raises:
        TypeError: something that is not plain; its address in memory must not become part of a name.

    >>> content_hash({"a": 1, "b": [2.0]}) == content_hash({"b": (2.0,), "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    raise TypeError(f"{value!r} is not plain and has no content hash")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_fingerprint() -> str:
    """SHA-256 over the program's own source files, as they were when it was first asked for."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
