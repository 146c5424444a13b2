"""Plots as SVG text: lines with bands, points with a front, matrices. Colours are those of the page's style sheet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 42
NUM_STYLES = 7  # colours, each with a marker and a dash of its own; what comes after is grey
MARKERS: tuple[Callable[[float, float], str], ...] = (
    lambda x, y: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
    lambda x, y: f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>',
    lambda x, y: f'<path d="M{x:.1f} {y - 4.8:.1f}l4.4 8h-8.8z"/>',
    lambda x, y: f'<path d="M{x:.1f} {y - 5:.1f}l5 5-5 5-5-5z"/>',
    lambda x, y: f'<path d="M{x:.1f} {y + 4.8:.1f}l4.4-8h-8.8z"/>',
    lambda x, y: f'<path d="M{x - 4:.1f} {y - 1.3:.1f}h2.7v-2.7h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7z"/>',
    lambda x, y: f'<rect x="{x - 4.5:.1f}" y="{y - 2:.1f}" width="9" height="4"/>',
)


@dataclass(frozen=True)
class Series:
    """A line: points (x, y, low, high), where low and high are None for a point without a band."""

    name: str
    points: Sequence[tuple[float, float, float | None, float | None]]
    style: int  # number of the style; from NUM_STYLES on, grey
    dashed: bool = False
    markers: bool = True


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot, with what it says when pointed at."""

    x: float
    y: float
    half: float | None  # half-width of its interval
    text: str
    style: int
    on_front: bool = False
    task: object = field(default=None)  # fronts are drawn within a task


@dataclass(frozen=True)
class Axis:
    """From values to pixels, linear or over the logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log10(each) if self.log else each for each in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from at most `low` to at least `high`, which differ, in steps of 1, 2 or 5 times a power of ten.

    >>> nice_ticks(43, 91)
    [40, 50, 60, 70, 80, 90, 100]
    """
    rough = max(high - low, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [tidy(number * step) for number in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from at most `low` to at least `high`, with 2 and 5 between where there are few.

    >>> log_ticks(3, 40)
    [2, 5, 10, 20, 50]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    ticks = [tidy(factor * 10.0**power) for power in range(first, last + 1) for factor in factors]
    below, above = [tick for tick in ticks if tick <= low], [tick for tick in ticks if tick >= high]
    return [tick for tick in ticks if below[-1] <= tick <= above[0]] if below and above else ticks


def tidy(value: float) -> float:
    """The number without what rounding added, as an int where it is one."""
    value = float(f"{value:.6g}")
    return int(value) if value == int(value) else value


def number_text(value: float) -> str:
    """A number on an axis.

    >>> number_text(62006), number_text(2_500_000), number_text(0.05)
    ('62k', '2.5M', '0.05')
    """
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}" if value >= 1e5 or value % size else f"{value / size:g}{suffix}"
    return f"{value:g}"


def line_chart(
    title: str, series: Sequence[Series], x_label: str, y_label: str, log_x: bool = False, ticks: Sequence[float] = ()
) -> str:
    """Lines with bands; `ticks` are the places on the x axis that are named, by default round ones."""
    xs = [x for each in series for x, *_ in each.points]
    ys = [y for each in series for point in each.points for y in point[1:] if y is not None]
    x_axis, x_ticks = x_scale(xs, log_x, ticks)
    y_axis, y_ticks = y_scale(ys)
    parts = [frame(x_axis, x_ticks, y_axis, y_ticks, x_label, y_label)]
    for each in series:
        style = style_class(each.style)
        banded = [(x, low, high) for x, _, low, high in each.points if low is not None and high is not None]
        if len(banded) > 1:
            upper = [f"{x_axis(x):.1f} {y_axis(high):.1f}" for x, _, high in banded]
            lower = [f"{x_axis(x):.1f} {y_axis(low):.1f}" for x, low, _ in reversed(banded)]
            parts.append(f'<path class="band {style}" d="M{"L".join(upper + lower)}z"/>')
    for each in series:
        style = style_class(each.style) + (" dashed" if each.dashed else "")
        places = [(x_axis(x), y_axis(y)) for x, y, *_ in each.points]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        marks = "".join(marker(each.style, x, y) for x, y in places) if each.markers else ""
        parts.append(
            f'<g class="{style}"><title>{escape(each.name)}</title><path class="line" d="M{line}"/>{marks}</g>'
        )
    return svg(title, "".join(parts))


def scatter_chart(title: str, points: Sequence[Point], x_label: str, y_label: str) -> str:
    """Points over a logarithmic cost, with their intervals; those on the front of a task are joined by its steps."""
    ys = [value for point in points for value in (point.y - (point.half or 0), point.y + (point.half or 0))]
    x_axis, x_ticks = x_scale([point.x for point in points], True, ())
    y_axis, y_ticks = y_scale(ys)
    parts = [frame(x_axis, x_ticks, y_axis, y_ticks, x_label, y_label)]
    for task in dict.fromkeys(point.task for point in points):
        front = sorted((p.x, p.y) for p in points if p.task == task and p.on_front)
        if len(front) > 1:
            steps = "".join(f"H{x_axis(x):.1f}V{y_axis(y):.1f}" for x, y in front[1:])
            start = f"M{x_axis(front[0][0]):.1f} {y_axis(front[0][1]):.1f}"
            parts.append(f'<path class="front" d="{start}{steps}"/>')
    for point in points:
        x, y = x_axis(point.x), y_axis(point.y)
        bar = ""
        if point.half:
            ends = (y_axis(max(0.0, min(100.0, point.y + side * point.half))) for side in (-1, 1))
            bar = '<path class="bar" d="M{:.1f} {:.1f}V{:.1f}"/>'.format(x, *ends)
        ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="8"/>' if point.on_front else ""
        parts.append(
            f'<g class="{style_class(point.style)}"><title>{escape(point.text)}</title>'
            f"{bar}{ring}{marker(point.style, x, y)}</g>"
        )
    return svg(title, "".join(parts))


def matrix_chart(title: str, counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """A confusion matrix: rows are labels, columns predictions; the depth of a cell is its share of the row."""
    k = len(counts)
    side = max(14, min(34, 560 // k))
    longest = max(len(name) for name in names)
    edge = 24 + 7 * min(longest, 14)
    size = edge + side * k + 8
    parts = []
    for row, line in enumerate(counts):
        y, total = edge + side * row, sum(line)
        parts.append(
            f'<text x="{edge - 6}" y="{y + side / 2 + 4:.0f}" class="end">{escape(shortened(names[row]))}</text>'
        )
        column_x = edge + side * row + side / 2 + 4
        parts.append(
            f'<text transform="translate({column_x:.0f} {edge - 6}) rotate(-90)">{escape(shortened(names[row]))}</text>'
        )
        for column, count in enumerate(line):
            if count:
                share = count / total
                x = edge + side * column
                kind = "hit" if row == column else "miss"
                dark = " deep" if share > 0.5 else ""
                text = f"{names[row]} taken for {names[column]}: {count} of {total}"
                parts.append(
                    f'<g><title>{escape(text)}</title><rect class="{kind}" x="{x}" y="{y}" width="{side}" '
                    f'height="{side}" fill-opacity="{max(share, 0.06):.2f}"/>'
                    f'<text class="count{dark}" x="{x + side / 2:g}" y="{y + side / 2 + 4:g}">{count}</text></g>'
                )
    parts.append(f'<rect class="grid-frame" x="{edge}" y="{edge}" width="{side * k}" height="{side * k}"/>')
    parts.append(f'<text class="axis-title" transform="translate(11 {edge + side * k / 2:g}) rotate(-90)">label</text>')
    parts.append(f'<text class="axis-title" x="{edge + side * k / 2:g}" y="12">predicted</text>')
    return svg(title, "".join(parts), size, size, "matrix")


def shortened(name: str, most: int = 14) -> str:
    """A name that fits beside a row."""
    return name if len(name) <= most else name[: most - 1] + "…"


def swatch(style: int, dashed: bool = False) -> str:
    """The sign of a style in a legend."""
    kind = style_class(style) + (" dashed" if dashed else "")
    return (
        f'<svg class="swatch {kind}" width="28" height="12" viewBox="0 0 28 12" aria-hidden="true">'
        f'<path class="line" d="M1 6H27"/>{"" if dashed else marker(style, 14, 6)}</svg>'
    )


def x_scale(values: Sequence[float], log: bool, named: Sequence[float]) -> tuple[Axis, list[float]]:
    """The x axis over the values, and its ticks."""
    low, high = min(values), max(values)
    log = log and low > 0
    if low == high:
        ticks = [tidy(low)]
    else:
        ticks = list(named) or (log_ticks(low, high) if log else nice_ticks(low, high, 5))
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 1, high + 1)
    return Axis(low, high, LEFT + 12, WIDTH - RIGHT - 12, log), ticks


def y_scale(values: Sequence[float]) -> tuple[Axis, list[float]]:
    """The y axis over the values, in % of accuracy, and its ticks: never outside 0 to 100."""
    low, high = max(0.0, min(values)), min(100.0, max(values))
    if high - low < 1:
        low, high = max(0.0, low - 1), min(100.0, high + 1)
    ticks = [tick for tick in nice_ticks(low, high) if 0 <= tick <= 100]
    return Axis(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP + 4), ticks


def frame(
    x_axis: Axis, x_ticks: Sequence[float], y_axis: Axis, y_ticks: Sequence[float], x_label: str, y_label: str
) -> str:
    """Grid lines, ticks and titles of both axes."""
    parts = []
    for tick in y_ticks:
        y = y_axis(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{number_text(tick)}</text>')
    for tick in x_ticks:
        x = x_axis(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="mid" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}">{number_text(tick)}</text>')
    centre = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis-title" x="{centre:g}" y="{HEIGHT - 6}">{escape(x_label)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text class="axis-title" transform="translate(11 {middle:g}) rotate(-90)">{escape(y_label)}</text>')
    return "".join(parts)


def style_class(style: int) -> str:
    """The class of a style."""
    return f"s{style}" if style < NUM_STYLES else "other"


def marker(style: int, x: float, y: float) -> str:
    """The marker of a style at a place."""
    return MARKERS[style if style < NUM_STYLES else 0](x, y)


def svg(title: str, body: str, width: float = WIDTH, height: float = HEIGHT, kind: str = "plot") -> str:
    """The whole picture, with a title for those who do not see it."""
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" style="max-width:{width * 1.25:g}px" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{body}</svg>'
    )
