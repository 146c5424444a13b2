"""What each selection rule chose in one run."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from graft.reports.settings import Record

ACCURACY = "target/test/accuracy"
NAMES = {"last": "last epoch", "best_val": "best on val", "oracle": "oracle (by test labels)"}


def rules_of(record: Record) -> dict[str, Mapping[str, Any]]:
    """The choice of each selection rule by its name; none where there was nothing but validation to choose by."""
    rules = {name: entry for name, entry in record["selection"].items() if isinstance(entry, Mapping)}
    return rules if rules.keys() - {"last", "best_val"} else {}


def spoken(rule: str | None) -> str:
    """The rule in words.

    >>> spoken("last"), spoken("dev"), spoken(None)
    ('last epoch', 'best by dev', '')
    """
    return NAMES.get(rule, f"best by {rule}") if rule else ""


def rules_table(record: Record) -> Table:
    """A line for each rule: its epoch, the score that it is the best by, and test accuracy; the headline's is bold."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("selection rule", style="dim")
    for heading in ("epoch", "score", "test accuracy"):
        table.add_column(heading, justify="right")
    for name, entry in rules_of(record).items():
        headline = name == record["selection"]["rule"]
        label = f"{NAMES.get(name, name)} (headline)" if headline else NAMES.get(name, name)
        score = "" if entry["score"] is None else f"{entry['score']:.3f}"
        cells = ["collapsed", "", ""] if entry.get("collapsed") else [str(entry["epoch"]), score, accuracy_of(entry)]
        table.add_row(label, *cells, style="bold" if headline else None)
    return table


def accuracy_of(entry: Mapping[str, Any]) -> str:
    """Accuracy on test of what a rule chose, in %; nothing where every epoch had collapsed."""
    return "" if entry.get("collapsed") else f"{100 * entry[ACCURACY]:.1f} %"


def collapse_notes(record: Record) -> list[tuple[str, str]]:
    """That no epoch was fit to be chosen: (heading, text)."""
    if not any(entry.get("collapsed") for entry in rules_of(record).values()):
        return []
    text = "in every epoch that was scored, nearly all images of the target were given one class; no rule chose any"
    rule = record["selection"]["rule"]
    instead = f", and the last stands in for {rule}" if rules_of(record).get(rule, {}).get("collapsed") else ""
    return [("Collapsed", text + instead)]
