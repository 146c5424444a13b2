"""What the choices of selection rules are worth, setting by setting."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from graft.reports.rules import ACCURACY, NAMES, rules_of
from graft.reports.settings import Record
from graft.reports.statistics import spread
from graft.reports.tables import grouped
from graft.reports.terminal import fitting_table, with_spread

CAPTION = (
    "accuracy on target test in % of the epoch that each selection rule chose; a rule that found every epoch collapsed "
    "chose none, and (n) says in how many runs it chose one"
)


def selection_rows(
    records: Sequence[Record], with_deviation: bool = True
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows with `setting` and `differs`, as those of `group_rows`, and the accuracy under each rule as text.

    Settings whose runs have no rules but validation are left out.
    """
    groups = [
        (values, part, differs)
        for values, members, differs in grouped(records)
        if (part := [record for record in members if rules_of(record)])
    ]
    rules = dict.fromkeys(rule for _, part, _ in groups for record in part for rule in rules_of(record))
    rows = [{"setting": values, "differs": differs} for values, _, differs in groups]
    return rows, [
        {NAMES.get(rule, rule): accuracies(part, rule, with_deviation) for rule in rules} for _, part, _ in groups
    ]


def accuracies(records: Sequence[Record], rule: str, with_deviation: bool) -> str:
    """Mean and spread over the runs in which the rule chose an epoch, and how many these are if not all."""
    entries = [rules_of(record).get(rule, {"collapsed": True}) for record in records]
    values = [entry[ACCURACY] for entry in entries if not entry.get("collapsed")]
    figure = spread(values)
    if figure is None:
        return "none"
    share = "" if len(values) == len(entries) else f" ({len(values)})"
    return with_spread(figure if with_deviation else figure | {"std": None}) + share


def print_selection(records: Sequence[Record], console: Console) -> None:
    """The table, where there is anything to say; without spread where there is no room for it."""
    rows, cells = selection_rows(records)
    if not rows:
        return
    table, hidden = fitting_table(rows, cells, tuple(cells[0]), console)
    if hidden:
        rows, cells = selection_rows(records, with_deviation=False)
        table, hidden = fitting_table(rows, cells, tuple(cells[0])[1:], console)
    console.print()
    console.print(table)
    console.print(Text(CAPTION + (f"; no room for {', '.join(hidden)}" if hidden else ""), style="dim"))
