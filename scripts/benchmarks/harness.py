"""What a row of the benchmark is, and how it is measured: sides one after the other, again and again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

QUICK_REPEATS = 2

Figures = Mapping[str, float]  # side -> seconds, or images/s
Repetition = Callable[[], Figures]  # measures every side once


@dataclass(frozen=True)
class Goal:
    """A bound on a figure made of the sides of one repetition; noise that hits all sides leaves it alone."""

    text: str
    figure: Callable[[Figures], float]
    at_most: float | None = None
    at_least: float | None = None
    unit: str = "x"

    def holds(self, values: Sequence[float]) -> bool:
        """Whether the median keeps within the bound."""
        middle = median(values)
        return (self.at_most is None or middle <= self.at_most) and (self.at_least is None or middle >= self.at_least)


def share(side: str, of: str, at_most: float | None = None, at_least: float | None = None) -> Goal:
    """`side` over `of` within a bound."""
    words = f"at most {at_most:.3g}" if at_most is not None else f"at least {at_least:.3g}"
    return Goal(f"{side}: {words}x {of}", lambda figures: figures[side] / figures[of], at_most, at_least)


def speedup(side: str, over: str, at_least: float) -> Goal:
    """`side` takes so many times fewer seconds than `over`."""
    return Goal(
        f"{side}: at least {at_least:g}x faster than {over}",
        lambda figures: figures[over] / figures[side],
        at_least=at_least,
    )


@dataclass(frozen=True)
class Row:
    """One line of the table. The first side is what the others are compared with; graft's begin with `graft`."""

    name: str  # for --only
    what: str
    unit: str  # "s", or "images/s"
    prepare: Callable[[bool, Path], Repetition]  # (quick, an empty folder) -> one repetition of all sides
    goals: tuple[Goal, ...] = ()
    note: str = ""
    quick_repeats: int = QUICK_REPEATS  # 1 where one is the mean of many jobs, more where noise is large


@dataclass(frozen=True)
class Measured:
    """A row with its figures, or why there are none."""

    row: Row
    figures: dict[str, list[float]]  # side -> one value a repetition
    goals: tuple[tuple[Goal, list[float]], ...]
    missing: str = ""


class NotMeasurable(Exception):
    """A row has nothing to measure here; the message says why."""


def measure(row: Row, quick: bool, repeats: int, folder: Path) -> Measured:
    """All sides of the row, `repeats` times in turn."""
    try:
        repetition = row.prepare(quick, folder)
        repetitions = [repetition() for _ in range(repeats)]
    except NotMeasurable as reason:
        return Measured(row, {}, (), str(reason))
    figures = {side: [one[side] for one in repetitions] for side in repetitions[0]}
    goals = tuple((goal, [goal.figure(one) for one in repetitions]) for goal in row.goals)
    return Measured(row, figures, goals)


def timed(sides: Mapping[str, Callable[[], object]]) -> Repetition:
    """A repetition that takes the seconds of each side's call."""
    return lambda: {side: seconds(call) for side, call in sides.items()}


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    started = perf_counter()
    call()
    return perf_counter() - started
