"""Plots: ticks that cover the values, and points where their values say."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.reports.svg import (
    BOTTOM,
    HEIGHT,
    TOP,
    Axis,
    Point,
    Series,
    line_chart,
    log_ticks,
    matrix_chart,
    nice_ticks,
    scatter_chart,
)


@given(st.floats(0, 99), st.floats(1, 100))
def test_ticks_cover_the_values_in_equal_steps(low: float, width: float) -> None:
    high = low + width
    ticks = nice_ticks(low, high)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step + 1e-6
    assert ticks[-1] >= high - 1e-6 * step - 1e-6
    assert 2 <= len(ticks) <= 9
    assert all(second - first == pytest.approx(step, rel=1e-3) for first, second in itertools.pairwise(ticks))


@given(st.floats(1e-3, 1e9), st.floats(1, 1e6))
def test_logarithmic_ticks_cover_the_values(low: float, factor: float) -> None:
    ticks = log_ticks(low, low * factor)
    assert ticks[0] <= low * (1 + 1e-5)
    assert ticks[-1] >= low * factor * (1 - 1e-5)
    assert ticks == sorted(set(ticks))


def test_an_axis_maps_its_ends() -> None:
    axis = Axis(1, 100, 50, 250, log=True)
    assert [axis(value) for value in (1, 10, 100)] == pytest.approx([50, 150, 250])
    assert Axis(0, 10, 200, 0)(5) == 100


def test_a_line_goes_through_its_points_and_its_band_around_them() -> None:
    text = line_chart("t", [Series("a<b", [(1, 50, 40, 60), (2, 70, 60, 80)], 0)], "x", "y")
    line = re.search(r'class="line" d="M([\d. ]+)L([\d. ]+)"', text)
    assert line is not None
    first, second = (float(place.split()[1]) for place in line.groups())
    low, high = HEIGHT - BOTTOM, TOP + 4  # of 40 and 80 %
    assert first == pytest.approx(low + (50 - 40) / 40 * (high - low), abs=0.1)
    assert second == pytest.approx(low + (70 - 40) / 40 * (high - low), abs=0.1)
    assert 'class="band s0"' in text
    assert "<title>a&lt;b</title>" in text


def test_the_front_joins_its_points_alone() -> None:
    points = [
        Point(1, 50, None, "cheap", 0, on_front=True),
        Point(10, 90, 5.0, "good", 1, on_front=True),
        Point(20, 80, None, "beaten", 2),
    ]
    text = scatter_chart("t", points, "cost", "y")
    assert text.count('class="ring"') == 2
    assert len(re.findall(r'class="front" d="M[\d. ]+H[\d.]+V[\d.]+"', text)) == 1
    assert text.count('class="bar"') == 1


def test_a_matrix_shows_every_count_that_is_not_zero() -> None:
    text = matrix_chart("t", [[3, 0], [1, 0]], ["<a>", "b" * 40])
    assert re.findall(r'class="count[^>]*>(\d+)<', text) == ["3", "1"]
    assert text.count('class="hit"') == 1
    assert "<a>" not in text
    assert "b" * 13 + "…" in text
