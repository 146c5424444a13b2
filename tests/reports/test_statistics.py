"""Every formula against an independent computation: scipy.stats, numpy, plain loops, or figures printed elsewhere."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from graft.reports.statistics import (
    chance_eta_squared,
    eta_squared,
    holm,
    paired_t_test,
    pareto_front,
    spread,
)

ACCURACIES = st.floats(0, 1, allow_subnormal=False)


@given(st.lists(ACCURACIES, min_size=2, max_size=8))
def test_spread_is_the_sample_deviation_and_the_t_interval(values: list[float]) -> None:
    figure = spread(values)
    assert figure is not None
    assert figure["mean"] == pytest.approx(np.mean(values))
    assert figure["std"] == pytest.approx(np.std(values, ddof=1))
    if np.std(values) > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert figure["interval"] == pytest.approx((high - low) / 2)


def test_spread_of_one_value_or_none() -> None:
    assert spread([0.5]) == {"mean": 0.5, "std": None, "interval": None}
    assert spread([]) is None


@given(st.lists(st.tuples(ACCURACIES, ACCURACIES), min_size=3, max_size=8))
def test_the_paired_test_is_that_of_scipy(pairs: list[tuple[float, float]]) -> None:
    first, second = np.array(pairs).T
    differences = (first - second).tolist()
    assume(np.std(differences) > 1e-6)
    assert paired_t_test(differences) == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-6)


def test_sleep_of_ten_patients() -> None:
    """Student's own example of 1908; R's `t.test(extra ~ group, paired = TRUE)` gives p = 0.002833."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    p = paired_t_test([a - b for a, b in zip(first, second, strict=True)])
    assert p == pytest.approx(0.002833, abs=5e-7)


@pytest.mark.parametrize("differences", [[], [0.1], [0.1, 0.2], [0.0] * 5, [0.3 - 0.2, 0.1, 0.4 - 0.3]])
def test_what_cannot_be_tested(differences: list[float]) -> None:
    assert paired_t_test(differences) is None


def test_holm_as_p_adjust_of_r() -> None:
    """R's p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm"), and another in disorder with one of 1."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.6, 0.001, 0.02, 0.7]) == pytest.approx([1.0, 0.004, 0.06, 1.0])


@given(st.lists(st.none() | st.floats(0, 1), max_size=7))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float | None]) -> None:
    """Marcus, Peritz and Gabriel: a hypothesis falls when Bonferroni rejects every set of hypotheses that it is in."""
    tested = [i for i, p in enumerate(p_values) if p is not None]
    sets = [set(s) for size in range(1, len(tested) + 1) for s in itertools.combinations(tested, size)]
    for i, adjusted in enumerate(holm(p_values)):
        if p_values[i] is None:
            assert adjusted is None
        else:
            assert adjusted == pytest.approx(
                max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s)
            )


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_the_front_is_what_no_other_point_beats(points: list[tuple[int, int]]) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    expected = [not any(beats(other, point) for other in points) for point in points]
    assert pareto_front([a for a, _ in points], [c for _, c in points]) == expected


@given(st.lists(st.tuples(ACCURACIES, st.sampled_from("abc")), min_size=2, max_size=12))
def test_eta_squared_is_that_of_a_regression_on_dummies(samples: list[tuple[float, str]]) -> None:
    values, levels = zip(*samples, strict=True)
    assume(np.std(values) > 1e-6)
    dummies = np.array([[float(level == name) for name in "abc"] for level in levels])
    fitted = dummies @ np.linalg.lstsq(dummies, np.array(values), rcond=None)[0]
    expected = 1 - np.sum((values - fitted) ** 2) / np.sum((values - np.mean(values)) ** 2)
    assert eta_squared(values, levels) == pytest.approx(expected, abs=1e-9)


def test_eta_squared_follows_from_the_f_of_an_analysis_of_variance() -> None:
    groups = {"a": [0.7, 0.8, 0.75], "b": [0.9, 0.85, 0.95], "c": [0.6, 0.7, 0.5]}
    f = stats.f_oneway(*groups.values()).statistic
    values = [value for group in groups.values() for value in group]
    levels = [name for name, group in groups.items() for _ in group]
    assert eta_squared(values, levels) == pytest.approx(2 * f / (2 * f + 6))


def test_eta_squared_of_equal_values() -> None:
    assert eta_squared([0.5] * 4, "aabb") is None


def test_eta_squared_by_chance() -> None:
    rng, levels = np.random.default_rng(0), np.repeat(range(3), 4).tolist()
    shares = [eta_squared(rng.normal(size=12).tolist(), levels) for _ in range(2000)]
    assert np.mean(shares) == pytest.approx(chance_eta_squared(12, 3), abs=4 * np.std(shares) / 2000**0.5)
