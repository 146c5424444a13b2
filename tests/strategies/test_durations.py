from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import UserError
from graft.strategies.durations import Epochs, Fraction, Plateau, divide, lay_out, parse_until


@pytest.mark.parametrize(
    ("untils", "max_epochs", "expected"),
    [
        ([None], 5, (5,)),
        ([Fraction(0.5), None], 12, (6, 6)),
        ([Epochs(3), None], 12, (3, 9)),
        ([Fraction(0.2), *[Fraction(0.1)] * 3, None], 12, (2, 1, 1, 1, 7)),
        ([Fraction(0.2), *[Fraction(0.1)] * 3, None], 100, (20, 10, 10, 10, 50)),
        ([Fraction(0.2), *[Fraction(0.1)] * 3, None], 5, (1, 1, 1, 1, 1)),
        ([Fraction(0.9), None], 2, (1, 1)),
        ([Fraction(0.3), Fraction(0.3), Fraction(0.3), None], 5, (2, 1, 1, 1)),
        ([Plateau(), Plateau(), None], 9, (3, 3, 3)),
        ([Plateau(), Epochs(2), None], 7, (3, 2, 2)),
    ],
)
def test_division(untils: list[Any], max_epochs: int, expected: tuple[int, ...]) -> None:
    assert tuple(count for _, count in lay_out(divide(untils, max_epochs), 0, max_epochs)) == expected


untils = st.lists(
    st.builds(Epochs, st.integers(1, 5)) | st.builds(Fraction, st.floats(0.01, 0.1)) | st.builds(Plateau), max_size=9
)


@given(untils, st.integers(1, 200))
def test_phases_follow_one_another_to_the_end_of_the_stage(phases: list[Any], max_epochs: int) -> None:
    whole = [*phases, None]
    needed = sum(until.count if isinstance(until, Epochs) else 1 for until in whole)
    if max_epochs < needed:
        with pytest.raises(UserError, match=f"need at least {needed} epochs; max_epochs is {max_epochs}"):
            divide(whole, max_epochs)
        return
    spans = lay_out(divide(whole, max_epochs), 0, max_epochs)
    assert [at for at, _ in spans] == [sum(count for _, count in spans[:i]) for i in range(len(spans))]
    assert sum(count for _, count in spans) == max_epochs
    assert all(count >= 1 for _, count in spans)
    for until, (_, count) in zip(whole, spans, strict=True):
        if isinstance(until, Epochs):
            assert count == until.count


def test_fractions_leave_something() -> None:
    with pytest.raises(UserError, match=r"add up to 1\.2; nothing is left"):
        divide([Fraction(0.6), Fraction(0.6), None], 10)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, None),
        ({"epochs": 2}, Epochs(2)),
        ({"fraction": 0.25}, Fraction(0.25)),
        ({"plateau": None}, Plateau("val/loss", 2, 0.0, "min")),
        (
            {"plateau": {"monitor": "val/accuracy", "mode": "max", "patience": 3}},
            Plateau("val/accuracy", 3, 0.0, "max"),
        ),
    ],
)
def test_parse(setting: Any, expected: Any) -> None:
    assert parse_until(setting) == expected


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (3, "until=3; expected one of"),
        ({}, "expected one of"),
        ({"epochs": 1, "fraction": 0.1}, "expected one of"),
        ({"epoch": 1}, "unknown key 'epoch'; did you mean 'epochs'"),
        ({"epochs": 0}, "epochs=0; expected a whole number from 1 on"),
        ({"epochs": 1.5}, r"epochs=1\.5"),
        ({"epochs": True}, "epochs=True"),
        ({"fraction": 1}, "fraction=1; expected a number between 0 and 1"),
        ({"fraction": "half"}, "fraction='half'"),
        ({"plateau": 3}, "plateau=3; expected"),
        ({"plateau": {"moniter": "val/loss"}}, r"unknown key plateau\.moniter; did you mean 'monitor'"),
        ({"plateau": {"patience": 0}}, r"plateau\.patience=0"),
        ({"plateau": {"min_delta": -1}}, r"plateau\.min_delta=-1"),
        ({"plateau": {"mode": "up"}}, r"plateau\.mode='up'; expected min or max"),
    ],
)
def test_parse_errors(setting: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_until(setting)
