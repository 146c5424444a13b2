"""Answers about plain values that are asked for again and again while the jobs of a sweep are checked."""

from collections.abc import Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")
MAX_ANSWERS = 10_000

_known: dict[str, Any] = {}


def remembered(question: str, about: Any, answer: Callable[[], Answer]) -> Answer:
    """What `answer` returned when the same was asked about equal plain values, or returns now.

    The order of keys counts: in a table of rules the first match wins.
    """
    key = f"{question} {about!r}"
    if key not in _known:
        if len(_known) >= MAX_ANSWERS:
            _known.clear()
        _known[key] = answer()
    found: Answer = _known[key]
    return found
