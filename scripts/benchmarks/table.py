"""The table of what was measured, for the terminal and as Markdown."""

import os
import platform
from collections.abc import Sequence
from statistics import median

import torch
from harness import Measured
from rich.console import Console
from rich.table import Table
from rich.text import Text

BUSY = 0.25  # share of the cores that others may use without anything to be said about it
HEADINGS = ("what", "peers: median (least to most)", "graft", "goal: figure (least to most)", "holds")


def print_table(measured: Sequence[Measured], setting: str, console: Console) -> None:
    """One table and the notes below it; `setting` says where it was measured."""
    table = Table(*HEADINGS, show_lines=True)
    for one in measured:
        table.add_row(*(Text("\n".join(lines)) for lines in cells(one)))
    console.print(table)
    for note in (setting, *notes(measured)):
        console.print(Text(f"- {note}"))


def markdown(measured: Sequence[Measured], setting: str) -> str:
    """The same table and notes as Markdown."""
    rows = ["| " + " | ".join(HEADINGS) + " |", "|" + " --- |" * len(HEADINGS)]
    rows += ["| " + " | ".join("<br>".join(lines) for lines in cells(one)) + " |" for one in measured]
    return "\n".join([*rows, "", *(f"- {note}" for note in (setting, *notes(measured)))]) + "\n"


def cells(one: Measured) -> tuple[list[str], ...]:
    """The lines of each cell of a row."""
    if one.missing:
        return [one.row.what], ["not measured"], [], [goal.text for goal in one.row.goals], []
    described = {side: describe(one, side) for side in one.figures}
    return (
        [one.row.what],
        [text for side, text in described.items() if not side.startswith("graft")],
        [text for side, text in described.items() if side.startswith("graft")],
        [f"{goal.text}: {spread(values, goal.unit)}" for goal, values in one.goals],
        ["yes" if goal.holds(values) else "no" for goal, values in one.goals],
    )


def describe(one: Measured, side: str) -> str:
    """A side's figure and how many times the first side's it is."""
    values, first = one.figures[side], next(iter(one.figures))
    text = f"{side} {spread(values, one.row.unit)}"
    if side == first:
        return text
    return f"{text} = {median(a / b for a, b in zip(values, one.figures[first], strict=True)):.3g}x"


def spread(values: Sequence[float], unit: str) -> str:
    """Median, least and most: `1.20 ms (1.10 to 1.35)`."""
    scale, name = scaled(median(values), unit)
    middle, least, most = (digits(value * scale) for value in (median(values), min(values), max(values)))
    return f"{middle}{'' if name == 'x' else ' '}{name} ({least} to {most})"


def digits(value: float) -> str:
    """Three digits, more before the point where there are more."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def scaled(value: float, unit: str) -> tuple[float, str]:
    """The factor and the name of the unit in which `value` is easy to read."""
    if unit == "s" and value < 1e-3:
        return 1e6, "µs"
    if unit == "s" and value < 1:
        return 1e3, "ms"
    if unit == "images/s" and value >= 1e4:
        return 1e-3, "k images/s"
    return 1.0, unit


def notes(measured: Sequence[Measured]) -> list[str]:
    """Which goals do not hold, what could not be measured, and what else must be known to read the table."""
    missed = [
        f"{one.row.name}: goal missed ({goal.text}; measured {spread(values, goal.unit)})"
        for one in measured
        for goal, values in one.goals
        if not goal.holds(values)
    ]
    missing = [f"{one.row.name}: not measured: {one.missing}" for one in measured if one.missing]
    return [*missed, *missing, *(f"{one.row.name}: {one.row.note}" for one in measured if one.row.note)]


def describe_setting(repeats: int) -> str:
    """The machine, how busy others kept it at the start, and how often each side is measured."""
    load = os.getloadavg()[0]
    busy = " (busy: to be measured again on a quiet machine)" if load > BUSY * (os.cpu_count() or 1) else ""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f} before the first row{busy}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians of {repeats}, sides measured in turn; "
        "ratios are taken within each repetition"
    )
