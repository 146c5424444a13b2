"""Pictures of features in the plane: every sample is there, in the colour of what it is."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from graft.callbacks.projector import MOST_DIMENSIONS, sprite, table
from graft.callbacks.scatter import (
    PALETTE,
    PLANES,
    SOURCE,
    TARGET,
    Plane,
    Samples,
    class_colours,
    domains_picture,
)

AXES = ("first", "second")


def pixels(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == np.array(colour)).all(axis=2).sum())


def samples(num_source: int, num_target: int, num_classes: int = 0) -> Samples:
    num = num_source + num_target if num_classes else 0
    names = tuple(f"class {index}" for index in range(num_classes))
    return Samples(num_source, num_target, ("a", "b"), np.arange(num) % max(1, num_classes), names)


def apart(num: int) -> Plane:
    """Points on a line, none over another."""
    return Plane(np.stack([np.arange(num), np.arange(num)], axis=1).astype(float), AXES)


@dataclass(frozen=True)
class Counts:
    source: int
    target: int


def counts(num_source: int, num_target: int) -> Counts:
    picture = domains_picture(apart(num_source + num_target), samples(num_source, num_target), ["title"])
    return Counts(pixels(picture, SOURCE), pixels(picture, TARGET))


def test_samples_of_a_domain_have_its_colour() -> None:
    few, more = counts(3, 5), counts(9, 5)
    assert few.source > 0
    assert few.target > 0
    point = (more.source - few.source) / 6
    assert point == pytest.approx(21, abs=8)  # a disc of radius 3, without its blended edge
    assert more.target == pytest.approx(few.target, abs=0.2 * few.target)


@pytest.mark.parametrize("num_classes", [2, 10, 20, 47])
def test_samples_of_a_class_have_its_colour_beside_their_domains(num_classes: int) -> None:
    plain = domains_picture(apart(60), samples(30, 30), ["title"])
    picture = domains_picture(apart(60), samples(30, 30, num_classes), ["title"])
    assert picture.shape[1] > plain.shape[1] + 300
    colours = class_colours(num_classes)
    assert len(set(colours)) == num_classes
    missing = [colour for colour in colours if not pixels(picture[:, plain.shape[1] - 150 :], colour)]  # beside panel 1
    assert not missing


def test_what_has_no_place_has_words() -> None:
    picture = domains_picture(None, samples(2, 2, 2), ["features are not finite numbers"])
    assert pixels(picture, (0, 0, 0)) > 100


def test_one_place_for_all_is_drawn() -> None:
    picture = domains_picture(Plane(np.zeros((4, 2)), AXES), samples(2, 2), ["title"])
    assert pixels(picture, SOURCE) + pixels(picture, TARGET) > 0


@pytest.mark.parametrize("name", PLANES)
def test_planes_are_the_same_at_every_call_and_leave_the_generators_alone(name: str) -> None:
    features = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (PLANES[name](features) for _ in range(2))
    np.testing.assert_array_equal(first.points, second.points)
    assert first.points.shape == (24, 2)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_colours_beyond_the_palette_differ_too() -> None:
    assert len(set(PALETTE)) == len(PALETTE)
    assert len(set(class_colours(100))) == 100


def test_thumbnails_are_in_order_in_a_square() -> None:
    images = [torch.full((1, 8, 8), 50 * index, dtype=torch.uint8) for index in range(5)]
    grid = np.asarray(sprite(images))
    assert grid.shape == (96, 96, 3)
    assert [int(grid[16 + 32 * row, 16 + 32 * column, 0]) for row in (0, 1) for column in range(3)] == [
        0, 50, 100, 150, 200, 0,
    ]  # fmt: skip


def test_long_features_are_written_by_their_principal_coordinates() -> None:
    features = torch.randn(150, 200, generator=torch.Generator().manual_seed(0))
    rows = [line.split("\t") for line in table(features).splitlines()]
    assert {len(row) for row in rows} == {MOST_DIMENSIONS}
    short = torch.tensor([[0.123456789, -2.0], [1e-9, 3e7]])
    assert table(short) == "0.12346\t-2\n1e-09\t3e+07\n"
