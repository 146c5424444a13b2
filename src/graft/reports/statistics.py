"""Statistics of few runs: mean and interval, paired differences, many comparisons, Pareto fronts, what mattered.

Seeds are few, so everything here is exact for few normal values, and nothing is resampled: three seeds have but ten
different bootstrap samples, whose percentiles lie within the three values, and a sign-flip or Wilcoxon test of n pairs
cannot give less than 2 / 2^n, which is 0.25 for three seeds and still 0.06 for five. Student's t is the price of a
normal assumption, which three values could not refute anyway.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypedDict

FEWEST = 3  # pairs that are tested: with two, one degree of freedom says next to nothing about the spread
ROUNDING = 1e-12  # differences of accuracies that agree so far are the same


class Figure(TypedDict):
    """The mean of some values, their sample standard deviation, and the half-width of the mean's 95 % interval."""

    mean: float
    std: float | None
    interval: float | None


def spread(values: Sequence[float]) -> Figure | None:
    """Mean, sample standard deviation and half-width of the mean's 95 % t interval; None without values.

    Student, "The probable error of a mean", Biometrika 1908: t(0.975, n - 1) * s / sqrt(n).

    >>> spread([1.0, 3.0])["std"]
    1.4142135623730951
    >>> spread([2.0])
    {'mean': 2.0, 'std': None, 'interval': None}
    """
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return {"mean": mean, "std": None, "interval": None}
    # Here, since commands that show no table begin sooner without; scipy.stats would take ten times as long.
    from scipy.special import stdtrit

    std = statistics.stdev(values)
    half_width = float(stdtrit(len(values) - 1, 0.975)) * std / math.sqrt(len(values))
    return {"mean": mean, "std": std, "interval": half_width}


def paired_t_test(differences: Sequence[float]) -> float | None:
    """Two-sided p of the hypothesis that paired differences have mean 0; None where it cannot be tested.

    That is with fewer than three pairs, and where all differences are the same, to which no normal law fits. Student,
    "The probable error of a mean", Biometrika 1908: t = mean / (s / sqrt(n)) with n - 1 degrees of freedom.

    >>> round(paired_t_test([0.01, 0.02, 0.03]), 4)
    0.0742
    """
    if len(differences) < FEWEST or max(differences) - min(differences) <= ROUNDING:
        return None
    from scipy.special import stdtr

    t = statistics.fmean(differences) / (statistics.stdev(differences) / math.sqrt(len(differences)))
    return 2 * float(stdtr(len(differences) - 1, -abs(t)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p values adjusted for there being several of them; None, which was not tested, stays None.

    The i-th smallest of m becomes the largest of (m - j + 1) p_j over j <= i, at most 1. Whoever calls those below 0.05
    differences errs in any of them with a probability of at most 0.05, whatever their dependence. Holm, "A simple
    sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for number, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - number) * p))
        adjusted[place] = largest
    return adjusted


def pareto_front(accuracies: Sequence[float], costs: Sequence[float]) -> list[bool]:
    """Which points no other one beats: as accurate for less, or more accurate for no more.

    Points that are equal in both are on the front together.

    >>> pareto_front([0.9, 0.8, 0.7], [3, 1, 2])
    [True, True, False]
    """
    front = [False] * len(costs)
    best, cost_of_best = -math.inf, -math.inf
    for place in sorted(range(len(costs)), key=lambda i: (costs[i], -accuracies[i])):
        if accuracies[place] > best or (accuracies[place] == best and costs[place] == cost_of_best):
            front[place] = True
            best, cost_of_best = accuracies[place], costs[place]
    return front


def eta_squared(values: Sequence[float], levels: Sequence[Hashable]) -> float | None:
    """The share of the values' variance that the levels of one factor explain, in [0, 1]; None without any variance.

    Sum over levels of n_level (mean_level - mean)^2, over the sum of (value - mean)^2: the correlation ratio of Fisher,
    "Statistical methods for research workers", 1925, section 45. In a full grid it is the main effect's share of
    variance of functional ANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014, equation 12), and the shares add up to at
    most 1; where factors vary together, what they share counts for each.
    """
    mean = statistics.fmean(values) if values else 0.0
    total = math.fsum((value - mean) ** 2 for value in values)
    if total <= len(values) * ROUNDING**2:
        return None
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for value, level in zip(values, levels, strict=True):
        groups[level].append(value)
    between = math.fsum(len(group) * (statistics.fmean(group) - mean) ** 2 for group in groups.values())
    return min(1.0, between / total)


def chance_eta_squared(num_values: int, num_levels: int) -> float:
    """The mean of `eta_squared` where a factor does nothing: (levels - 1) / (values - 1), for normal values.

    Under the null it follows a beta law with (levels - 1) / 2 and (values - levels) / 2.
    """
    return (num_levels - 1) / (num_values - 1)
