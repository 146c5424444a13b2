"""Pictures of a result: where they are coloured, and that nothing a run can end in breaks them."""

import numpy as np
import pytest

from graft.callbacks.pictures import (
    BAR,
    LONGEST,
    OVERCONFIDENT,
    SHARES,
    SIDE,
    THUMBNAIL,
    UNDERCONFIDENT,
    confused_picture,
    groups_picture,
    reliability_picture,
)


def pixels(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == np.array(colour)).all(axis=2).sum())


def longest_row(picture: np.ndarray) -> int:
    return int((picture == np.array(BAR)).all(axis=2).sum(axis=1).max())


@pytest.mark.parametrize(("moved", "cka"), [(0.0, 1.0), (0.5, 0.25), (3.0, 0.0), (None, None)])
def test_bars_are_as_long_as_what_they_stand_for(moved: float | None, cka: float | None) -> None:
    picture = groups_picture({"stem": {"moved_relative": moved, "cka": cka}})
    assert picture.dtype == np.uint8
    expected = LONGEST * (min(1.0, moved or 0.0) + (cka or 0.0))
    assert longest_row(picture) == pytest.approx(expected, abs=3)


def test_mistaken_images_stand_in_rows_below_their_headings() -> None:
    grey, colour = np.full((8, 8), 7, dtype=np.uint8), np.zeros((300, 300, 3), dtype=np.uint8) + np.uint8([9, 80, 7])
    picture = confused_picture([("a taken for b (2 of 9)", [grey, grey]), ("b taken for a (1 of 9)", [colour])])
    assert pixels(picture, (7, 7, 7)) == 2 * THUMBNAIL**2
    assert pixels(picture, (9, 80, 7)) == THUMBNAIL**2
    rows = (picture == np.array((9, 80, 7))).all(axis=2).any(axis=1).nonzero()[0]
    assert rows[0] > (picture == np.array((7, 7, 7))).all(axis=2).any(axis=1).nonzero()[0][-1]


def test_every_layer_group_has_a_line() -> None:
    row = {"moved_relative": 0.1, "cka": 0.9}
    one, three = (groups_picture(dict.fromkeys(names, row)) for names in ("a", "abc"))
    assert three.shape[0] - one.shape[0] == 40


def bins(confidence: float | None, accuracy: float | None) -> dict[str, list[float | None]]:
    return {"samples": [0, 10], "confidence": [None, confidence], "accuracy": [None, accuracy]}


@pytest.mark.parametrize(
    ("confidence", "accuracy", "colour", "other"),
    [(0.9, 0.6, OVERCONFIDENT, UNDERCONFIDENT), (0.6, 0.9, UNDERCONFIDENT, OVERCONFIDENT)],
)
def test_the_gap_between_confidence_and_accuracy_has_its_colour(
    confidence: float, accuracy: float, colour: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    picture = reliability_picture({"transfer": bins(confidence, accuracy)})
    width = SIDE / 2 - 1
    # The diagonal and the lettering take or add a few pixels.
    assert pixels(picture, colour) == pytest.approx(0.3 * SIDE * width, rel=0.05)
    assert pixels(picture, other) < 0.01 * SIDE * width
    assert pixels(picture, BAR) == pytest.approx((0.6 * SIDE + SHARES) * width, rel=0.05)


def test_diagrams_stand_side_by_side() -> None:
    one = reliability_picture({"transfer": bins(0.9, 0.6)})
    two = reliability_picture({"transfer": bins(0.9, 0.6), "scratch": bins(None, 0.6)})
    assert two.shape == (one.shape[0], 2 * one.shape[1], 3)
