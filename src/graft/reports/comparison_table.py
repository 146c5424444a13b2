"""The comparison of settings as text: how it was made, what it cannot show, and its table in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from graft.errors import listed
from graft.reports.comparison import Reference, compared_rows, importance, is_reference
from graft.reports.notes import label
from graft.reports.settings import Record
from graft.reports.statistics import FEWEST, Figure
from graft.reports.tables import study_of
from graft.reports.terminal import fitting_table, print_note

DISPENSABLE = ("pairs", "p", "front")  # left out in this order where there is no room
METHOD = (
    "mean ± half-width of its 95 % t interval over seeds, accuracies in %; difference to {reference}, paired by seeds "
    "and splits, in points, with the p of a two-sided paired t test, and that of {tests} after Holm's correction; "
    "front: no row of the same target is as accurate for less (seconds of fitting, parameters trained)"
)


def method(rows: Sequence[Mapping[str, Any]], reference: Reference) -> str:
    """How the figures of `compared_rows` came about, in a sentence."""
    num_tests = sum(each["comparison"]["p"] is not None for each in rows)
    tests = "1 comparison" if num_tests == 1 else f"{num_tests} comparisons"
    return METHOD.format(reference=reference_text(rows, reference), tests=tests)


def reference_text(rows: Sequence[Mapping[str, Any]], reference: Reference) -> str:
    """The reference in words."""
    if reference:
        return label(reference)
    names = {record["transfer"]["baseline"] for each in rows for record in each["records"] if record["transfer"]}
    return f"each run's own baseline ({', '.join(sorted(names))})" if names else "a baseline, which no run has"


def limits(rows: Sequence[Mapping[str, Any]], reference: Reference) -> list[tuple[str, str]]:
    """(heading, text) for what the rows of `compared_rows` cannot show."""
    notes = []
    few = sum(each["n"] < FEWEST for each in rows)
    if few:
        seeds_wanted = ",".join(map(str, range(FEWEST)))
        text = (
            f"{few} of {len(rows)} rows have fewer than {FEWEST} runs: nothing can be concluded from these about other "
            f"seeds, and their differences are not tested; seed={seeds_wanted} or more would do"
        )
        notes.append(("Too few seeds", text))
    lonely = [each for each in rows if not each["comparison"]["pairs"] and not is_reference(each, reference)]
    if reference and lonely:
        text = (
            f"{listed((label(each['setting']) for each in lonely), 3)}: {label(reference)} has no run with the same "
            "other settings, seeds, data, code, packages and device"
        )
        notes.append(("Not compared", text))
    elif not reference and len(lonely) == len(rows):
        notes.append(("Not compared", "no run has a baseline; --against KEY=VALUE names a setting to compare with"))
    return notes


def comparison_cells(rows: Sequence[Mapping[str, Any]], reference: Reference) -> list[dict[str, str]]:
    """The figures of `compared_rows` as text, by heading."""
    return [
        {
            "accuracy": with_interval(each["accuracy"]),
            "difference": "reference" if is_reference(each, reference) else difference_text(each["comparison"]),
            "pairs": str(each["comparison"]["pairs"] or ""),
            "p": p_text(each["comparison"]["p"]),
            "p (Holm)": p_text(each["comparison"]["adjusted"]),
            "front": front_text(each["front"]),
        }
        for each in rows
    ]


def with_interval(figure: Figure | None, sign: str = "") -> str:
    """`91.4 ± 0.3` in hundredths, with the half-width of the interval, or the mean alone where there is one value."""
    if figure is None:
        return ""
    mean = f"{100 * figure['mean']:{sign}z.1f}"
    return mean if figure["interval"] is None else f"{mean} ± {100 * figure['interval']:.1f}"


def difference_text(comparison: Mapping[str, Any]) -> str:
    """The difference in points with its interval."""
    return with_interval(comparison["difference"], sign="+")


def p_text(p: float | None) -> str:
    """A p value in three decimals.

    >>> p_text(0.0742), p_text(0.0001), p_text(None)
    ('0.074', '<0.001', '')
    """
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def front_text(front: Mapping[str, bool]) -> str:
    """By which costs a row is on the front."""
    return " ".join(name for name, on_front in front.items() if on_front)


def importance_text(found: Sequence[Mapping[str, Any]]) -> str:
    """What `importance` found, in a line."""
    shares = [
        f"{each['name']} {100 * each['share']:.0f} %"
        + ("" if each["chance"] is None else f" (by chance {100 * each['chance']:.0f})")
        for each in found
    ]
    return ", ".join(shares)


def notes(rows: Sequence[Mapping[str, Any]], records: Sequence[Record], reference: Reference) -> list[tuple[str, str]]:
    """(heading, text) to be said below the table: what mattered, and what the rows cannot show."""
    found = importance(study_of(records))
    mattered = [("Share of the variance of accuracy", importance_text(found))] if found else []
    return [*mattered, *limits(rows, reference)]


def print_comparison(records: Sequence[Record], reference: Reference, console: Console) -> None:
    """The table of `compared_rows` and what must be said beside it; nothing without a finished run."""
    rows = compared_rows(study_of(records), reference)
    if not rows:
        return
    table, hidden = fitting_table(rows, comparison_cells(rows, reference), DISPENSABLE, console)
    console.print()
    console.print(table)
    room = f"; no room for {', '.join(hidden)}" if hidden else ""
    console.print(Text(method(rows, reference) + room, style="dim"))
    for heading, text in notes(rows, records, reference):
        print_note(heading, text, "bold", console)
