"""What was transferred, setting by setting: a table beside the summary's accuracies."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.text import Text

from graft.reports.labels import SCRATCH, labels_needed, scratch_curves, scratch_key
from graft.reports.settings import Record
from graft.reports.statistics import spread
from graft.reports.tables import ACCURACY, grouped, study_of
from graft.reports.terminal import fitting_table, with_spread

FIGURES = ("forgotten", "moved", "CKA", "sooner", "lead", "ECE", "Brier", "labels", "scratch needs")
DISPENSABLE = ("Brier", "lead", "CKA", "moved", "ECE")  # left out in this order where there is no room
CAPTION = (
    "accuracy on the source that was forgotten, in points; how far the backbone moved, in % of its length, and CKA of "
    "its features before and after; how many times sooner, in steps, the baseline's best on val was reached, and the "
    "mean lead on val at the same step, in points; calibration error in % and Brier score on test; labels, and those "
    "that scratch needs for the same accuracy after as many epochs"
)


def transferred_rows(records: Sequence[Record]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows with `setting` and `differs`, as those of `group_rows`, and the figures of each as text, by heading.

    A figure that no row has is left out; no rows where nothing is left.
    """
    study = study_of(records)
    groups, curves = grouped(study), scratch_curves(study)
    rows = [{"setting": values, "differs": differs} for values, _, differs in groups]
    keys = [scratch_key(part[0], study.settings[id(part[0])]) for _, part, _ in groups]
    cells = [figures(part, curves.get(key, {})) for key, (_, part, _) in zip(keys, groups, strict=True)]
    shown = [name for name in FIGURES if any(texts[name] for texts in cells)]
    if not shown:
        return [], []
    return rows, [{name: texts[name] for name in shown} for texts in cells]


def figures(records: Sequence[Record], curve: Mapping[int, Sequence[float]]) -> dict[str, str]:
    """The figures of the records of one setting; `curve` is scratch's (see `scratch_curves`)."""
    transferred = [each for record in records if (each := record.get("transferred"))]
    transfer = [record["transfer"] for record in records]
    metrics = [record["metrics"] for record in records]
    features = [list(each["groups"].values())[-1]["cka"] for each in transferred if each["groups"]]
    return {
        "forgotten": over_seeds([each["forgotten"] for each in transferred], sign="+"),
        "moved": over_seeds([each["moved_relative"] for each in transferred]),
        "CKA": over_seeds(features, scale=1.0, digits=3),
        "sooner": sooner(transfer),
        "lead": over_seeds([each.get("mean_lead") for each in transfer], sign="+"),
        "ECE": over_seeds([each.get("target/test/calibration_error") for each in metrics]),
        "Brier": over_seeds([each.get("target/test/brier_score") for each in metrics], scale=1.0, digits=3),
        "labels": f"{records[0]['training_labels']:,}" if len(curve) > 1 else "",
        "scratch needs": needed(records, curve) if len(curve) > 1 and records[0]["strategy"] != SCRATCH else "",
    }


def over_seeds(values: Iterable[float | None], scale: float = 100.0, sign: str = "", digits: int = 1) -> str:
    """Mean and spread of the values that there are."""
    return with_spread(spread([value for value in values if value is not None]), scale, sign, digits)


def sooner(transfer: Sequence[Mapping[str, Any]]) -> str:
    """How many times sooner the baseline's best was reached, over the runs that reached it, and how many these are."""
    compared = [each["speedup_in_steps"] for each in transfer if each.get("steps_to_baseline_best") is not None]
    reached = [value for value in compared if value is not None]
    if not reached:
        return "never" if compared else ""
    share = "" if len(reached) == len(compared) else f" ({len(reached)} of {len(compared)})"
    return f"{over_seeds(reached, scale=1.0)}x{share}"


def needed(records: Sequence[Record], curve: Mapping[int, Sequence[float]]) -> str:
    """The labels that scratch needs for the records' mean accuracy, and how many times theirs that is where known."""
    found = labels_needed(fmean(record["metrics"][ACCURACY] for record in records), curve)
    exact = found.least == found.most
    return f"{found} ({found.least / records[0]['training_labels']:.1f}x)" if exact else str(found)


def print_transferred(records: Sequence[Record], console: Console) -> None:
    """The table, where there is anything to say."""
    rows, cells = transferred_rows(records)
    if rows:
        table, hidden = fitting_table(rows, cells, DISPENSABLE, console)
        console.print()
        console.print(table)
        console.print(Text(CAPTION + (f"; no room for {', '.join(hidden)}" if hidden else ""), style="dim"))
