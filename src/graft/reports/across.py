"""The summary as a table with a column for each value of one of the things that varied."""

from collections.abc import Mapping, Sequence
from typing import Any

from graft.errors import UserError
from graft.reports.export import markdown_lines, markdown_note
from graft.reports.notes import warnings
from graft.reports.settings import short_names
from graft.reports.tables import group_rows, runs_of, varied_name
from graft.reports.terminal import with_spread

CAPTION = (
    "Mean ± sample standard deviation over seeds, accuracies in %, in brackets the gain over the baseline in points; "
    "mean seconds of fitting on the target, in the order of the columns"
)


def markdown_across(runs: Sequence[Any], key: str) -> str:
    """A Markdown table with one row for each setting of all that varied but `key`, and one column for each value of it.

    Args:
        runs: (folder, record) of each run.
        key: full or short name of what varied, as the target's labels_per_class.

    Raises:
        UserError: `key` does not vary between the runs.
    """
    study = runs_of(runs).study
    short = short_names(study.names)
    across = varied_name(study, key, f"--across {key}:")
    rows = group_rows(study)
    values = sorted({row["setting"][across] for row in rows}, key=natural)
    others = [name for name in study.names if name != across]
    table: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        place = table.setdefault(tuple(row["setting"][name] for name in others), {})
        if row["setting"][across] in place:
            raise UserError(
                f"--across {key}: runs of one setting differ in {', '.join(row['differs'])}; report them apart"
            )
        place[row["setting"][across]] = row
    headings = [*(short[name] for name in others), *(f"{short[across]}={value}" for value in values)]
    lines = [[*headings, "n", "seconds", "trained"], ["---"] * len(others) + ["---:"] * (len(values) + 3)]
    lines += [[*setting, *cells(place, values)] for setting, place in table.items()]
    notes = [markdown_note(heading, text) for heading, text in warnings(study, rows)]
    return "\n".join([markdown_lines(lines), f"{CAPTION}\n", *notes])


def cells(place: Mapping[str, Mapping[str, Any]], values: Sequence[str]) -> list[str]:
    """The figures of one row: accuracy and gain by column, how many runs each has, seconds by column, parameters."""
    found = [place[value] for value in values if value in place]
    accuracies = [accuracy(place[value]) if value in place else "" for value in values]
    numbers = dict.fromkeys(str(row["n"]) for row in found)
    seconds = ", ".join(f"{row['seconds']['mean']:.3g}" for row in found)
    return [*accuracies, "/".join(numbers), seconds, f"{max(row['trainable_parameters'] for row in found):,}"]


def accuracy(row: Mapping[str, Any]) -> str:
    """`91.4 ± 0.3 (+2.0 ± 0.5)`."""
    gain = with_spread(row["gain"], sign="+")
    return with_spread(row["accuracy"]) + (f" ({gain})" if gain else "")


def natural(value: str) -> tuple[bool, float, str]:
    """Numbers by their size, words after them.

    >>> sorted(["15", "all", "3"], key=natural)
    ['3', '15', 'all']
    """
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value
