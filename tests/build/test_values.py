import collections.abc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Protocol, TypeVar

import pytest
from torch import Tensor

from graft.build.values import describe, fits

T = TypeVar("T")


@dataclass
class Settings:
    size: int = 0


class Shape(Protocol):
    def area(self) -> float: ...


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (3, int),
        (3, float),
        (2.5, float),
        ("a", str),
        ("a/b", Path),
        (True, bool),
        (None, int | None),
        (None, Optional[int]),  # noqa: UP045
        ("a", Literal["a", "b"]),
        ([1, 2], list[int]),
        ([1, 2], Sequence[float]),
        (["a"], Iterable[str]),
        ([1], Collection[int]),
        ([0.9, 0.999], tuple[float, float]),
        ([1, 2, 3], tuple[int, ...]),
        ([[1, 2]], list[tuple[int, int]]),
        ({"a": 1}, dict[str, int]),
        ({"a": 1}, Mapping[str, Any]),
        ({"size": 1}, Settings),
        ({"_target_": "x"}, Shape),
        ("anything", Any),
        ("anything", object),
        ("anything", T),
        ([1], collections.abc.Sequence),
    ],
    ids=str,
)
def test_fits(value: Any, hint: Any) -> None:
    assert fits(value, hint)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("abc", int),
        (1.5, int),
        (True, int),
        (True, float),
        (1, bool),
        (1, str),
        (None, int),
        ("c", Literal["a", "b"]),
        ("32", Literal[32]),
        ("abc", list[str]),
        ("abc", Sequence[str]),
        ([1, "a"], list[int]),
        ([0.9], tuple[float, float]),
        ({"a": "x"}, dict[str, int]),
        ([1], dict[str, int]),
        ("size", Settings),
        ("circle", Shape),
        ({"a": 1}, Shape),
        (3, Callable[[int], int] | None),
    ],
    ids=str,
)
def test_does_not_fit(value: Any, hint: Any) -> None:
    assert not fits(value, hint)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "a whole number or null"),
        (float, "a number"),
        (float | Tensor, "a number"),
        (Literal["last", "best_val"], "'last' or 'best_val'"),
        (tuple[float, float], "a list of 2 numbers"),
        (Sequence[str], "a list of texts"),
        (list, "a list"),
        (dict[str, int], "a mapping"),
        (Settings, "a mapping"),
    ],
    ids=str,
)
def test_describe(hint: Any, words: str) -> None:
    assert describe(hint) == words
