"""The terminal's view of one evaluation."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from graft.reports.tables import ACCURACY
from graft.reports.terminal import percent, points, print_note


def print_evaluation(evaluation: Mapping[str, Any], record: Mapping[str, Any], console: Console) -> None:
    """Accuracy, loss, calibration; a line for each class; what the reader must know beside them."""
    scores = evaluation["scores"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    right = f"{percent(scores['accuracy'])} of {evaluation['num_images']} samples"
    table.add_row("accuracy", Text(right, style="bold"))
    table.add_row("in the run", in_the_run(evaluation, record))
    table.add_row("calibration", calibration(scores))
    if "calibrated" in evaluation:
        table.add_row(
            "", f"{calibration(evaluation['calibrated'])}, at the temperature {evaluation['temperature']:.3g}"
        )
    console.print()
    title = f"{evaluation['target']}, {evaluation['split']}: {record['backbone']}, {record['strategy']}"
    console.print(Text(f"{title}, seed {record['seed']}", style="bold"))
    console.print(table)
    console.print(classes_table(evaluation))
    if evaluation["target"] == record["target"] and not evaluation["same_data_as_in_run"]:
        text = "data, splits or label budget are not those of the run, or have changed since"
        print_note("Other data", text, "bold yellow", console)
    if evaluation["split"] in ("train", "all") and evaluation["same_data_as_in_run"]:
        print_note("Seen in training", "some of these samples were trained on", "bold yellow", console)


def in_the_run(evaluation: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """The accuracy on the run's own test images, and the distance to it."""
    recorded = record["metrics"][ACCURACY]
    gap = evaluation["scores"]["accuracy"] - recorded
    return f"{percent(recorded)} on test of {record['target']} ({points(gap)})"


def calibration(scores: Mapping[str, Any]) -> str:
    """Calibration error, loss and Brier score."""
    error, loss, brier = (scores[name] for name in ("calibration_error", "loss", "brier_score"))
    return f"error {percent(error)}, loss {loss:.3f}, Brier {brier:.3f}"


def classes_table(evaluation: Mapping[str, Any]) -> Table:
    """Each class with the images it has, its accuracy, and the class that it is most often mistaken for."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("class", overflow="fold")
    for heading in ("samples", "accuracy"):
        table.add_column(heading, justify="right")
    table.add_column("mostly mistaken for")
    names, confusion = evaluation["classes"], evaluation["scores"]["confusion"]
    for index, name in enumerate(names):
        row = confusion[index]
        mistakes = [0 if column == index else count for column, count in enumerate(row)]
        most = max(mistakes)
        mistaken = f"{names[mistakes.index(most)]} ({most})" if most else ""
        accuracy = percent(evaluation["scores"]["accuracy_by_class"][index])
        table.add_row(Text(name), str(sum(row)), accuracy, Text(mistaken))
    return table
