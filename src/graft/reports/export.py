"""Tables as files and text: CSV of every run, Markdown of the summary."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from graft.records.files import atomic_write_bytes
from graft.records.record import open_set_metrics
from graft.reports.comparison import Reference, compared_rows
from graft.reports.comparison_table import comparison_cells, method
from graft.reports.comparison_table import notes as comparison_notes
from graft.reports.notes import CAPTION, reason, unfinished, warnings
from graft.reports.rules import ACCURACY, rules_of
from graft.reports.selection import CAPTION as SELECTION_CAPTION
from graft.reports.selection import selection_rows
from graft.reports.settings import Record, value_of
from graft.reports.tables import group_rows, runs_of, study_of
from graft.reports.terminal import FIGURES, figures, setting_cells
from graft.reports.transferred import CAPTION as TRANSFERRED_CAPTION
from graft.reports.transferred import transferred_rows

RESULTS = "results.csv"


def results_csv(records: Sequence[tuple[Path, Record]], root: Path | None = None) -> str:
    """One line a run: what varied, seed, status, every metric, baselines, gain, cost, error.

    Args:
        records: (run folder, record) of each run.
        root: the folder that runs are named from; by default the deepest one above all.
    """
    names = runs_of(records).study.names
    parents = {parent: parent.resolve() for parent in {folder.parent for folder, _ in records}}
    folders = [parents[folder.parent] / folder.name for folder, _ in records]
    root = root.resolve() if root else Path(os.path.commonpath([folder.parent for folder in folders]))
    runs = [os.path.relpath(folder, root) for folder in folders]
    return csv_text([csv_row(run, record, names) for run, (_, record) in zip(runs, records, strict=True)])


def csv_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines under a heading of all their columns."""
    columns = list(dict.fromkeys(chain.from_iterable(lines)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([line.get(column, "") for column in columns] for line in lines)
    return text.getvalue()


def csv_row(run: str, record: Record, names: Sequence[str]) -> dict[str, Any]:
    """One run's line; a run without an end has its settings and the reason."""
    line = {"run": run, "id": record["id"], "status": record["status"], "seed": record["seed"]}
    line |= {name: value_of(record, name) for name in names}
    if record["status"] != "done":
        return line | {"error": reason(record)}
    line |= record["metrics"]
    for name, baseline in record["baselines"].items():
        line |= {f"{name}/{metric}": value for metric, value in baseline["metrics"].items()}
    for name, result in record.get("after", {}).items():
        line |= {f"after/{name}/{metric}": value for metric, value in result["metrics"].items()}
    line |= open_set_metrics(record)
    for rule, entry in rules_of(record).items():
        line |= {f"selection/{rule}/{name}": entry[name] for name in ("epoch", "score", ACCURACY)}
    line |= {"gain": record["transfer"].get("gain")} | transferred_columns(record)
    return line | record["cost"] | record["fingerprints"]


def transferred_columns(record: Record) -> dict[str, Any]:
    """Learning speed, and what was transferred; a column for each figure of each layer group."""
    transfer, transferred = record["transfer"], record.get("transferred") or {}
    speed = {name: transfer.get(name) for name in ("speedup_in_steps", "speedup_in_seconds", "mean_lead")}
    whole = {name: transferred.get(name) for name in ("forgotten", "moved", "moved_relative")}
    groups = {
        f"backbone.{group}/{name}": value
        for group, row in transferred.get("groups", {}).items()
        for name, value in row.items()
    }
    return {"training_labels": record.get("training_labels")} | speed | whole | groups


def write_results_csv(folder: Path, records: Sequence[tuple[Path, Record]]) -> Path:
    """Leave `results.csv` in a sweep's folder."""
    path = folder / RESULTS
    atomic_write_bytes(path, results_csv(records, folder).encode())
    return path


def markdown_summary(records: Sequence[tuple[Path, Record]], reference: Reference | None = None) -> str:
    """The summary as Markdown: a table with one row for each setting, and what must be said beside it.

    With the comparison with a reference (an empty one: each run's own baseline), or without.
    """
    records = runs_of(records)
    plain = records.study
    rows = group_rows(plain)
    cells = [dict(zip(FIGURES, figures(row), strict=True)) for row in rows]
    parts = [markdown_table(rows, cells), f"{CAPTION}\n"] if rows else []
    parts += [markdown_note(heading, text) for heading, text in [*warnings(plain, rows), *unfinished(records)]]
    if rows and reference is not None:
        parts += markdown_comparison(plain, reference)
    transferred, transferred_cells = transferred_rows(plain)
    if transferred:
        parts += [markdown_table(transferred, transferred_cells), f"{TRANSFERRED_CAPTION}\n"]
    selected, selected_cells = selection_rows(plain)
    if selected:
        parts += [markdown_table(selected, selected_cells), f"{SELECTION_CAPTION}\n"]
    return "\n".join(parts)


def markdown_comparison(records: Sequence[Record], reference: Reference) -> list[str]:
    """The comparison as Markdown: its table, how it was made, what it shows and what it cannot."""
    rows = compared_rows(study_of(records), reference)
    notes = [markdown_note(heading, text) for heading, text in comparison_notes(rows, records, reference)]
    return [markdown_table(rows, comparison_cells(rows, reference)), f"{method(rows, reference)}\n", *notes]


def markdown_table(rows: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table of rows, at least one, with `setting` and `differs`, and their figures as text, by heading."""
    headings, *settings = setting_cells(rows)
    lines = [[*headings, *cells[0]], ["---"] * len(headings) + ["---:"] * len(cells[0])]
    lines += [[*names, *texts.values()] for names, texts in zip(settings, cells, strict=True)]
    return markdown_lines(lines)


def markdown_lines(lines: Sequence[Sequence[str]]) -> str:
    """The lines of a Markdown table, of which the second says how columns are aligned."""
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def markdown_note(heading: str, text: str) -> str:
    """A paragraph of Markdown that says what it is about."""
    return f"**{heading}**: {text}\n"
