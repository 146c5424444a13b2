"""Tables as files and text: CSV of every run, Markdown of the summary."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.records.files import atomic_write_bytes
from graft.reports.notes import CAPTION, reason, unfinished, warnings
from graft.reports.settings import Record, value_of, varied_keys
from graft.reports.tables import group_rows
from graft.reports.terminal import FIGURES, figures, setting_cells

RESULTS = "results.csv"


def results_csv(records: Sequence[tuple[Path, Record]], root: Path | None = None) -> str:
    """One line a run: what varied, seed, status, every metric, baselines, gain, cost, error.

    Args:
        records: (run folder, record) of each run.
        root: the folder that runs are named from; by default the deepest one above all.
    """
    names = varied_keys([record for _, record in records])
    folders = [folder.resolve() for folder, _ in records]
    root = root.resolve() if root else Path(os.path.commonpath([folder.parent for folder in folders]))
    runs = [os.path.relpath(folder, root) for folder in folders]
    return csv_text([csv_row(run, record, names) for run, (_, record) in zip(runs, records, strict=True)])


def csv_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines under a heading of all their columns."""
    columns = dict.fromkeys(column for line in lines for column in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
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
    return line | {"gain": record["transfer"].get("gain")} | record["cost"] | record["fingerprints"]


def write_results_csv(folder: Path, records: Sequence[tuple[Path, Record]]) -> Path:
    """Leave `results.csv` in a sweep's folder."""
    path = folder / RESULTS
    atomic_write_bytes(path, results_csv(records, folder).encode())
    return path


def markdown_summary(records: Sequence[tuple[Path, Record]]) -> str:
    """The summary as Markdown: a table with one row for each setting, and what must be said beside it."""
    plain = [record for _, record in records]
    rows = group_rows(plain)
    parts = [markdown_table(rows), f"{CAPTION}\n"] if rows else []
    parts += [f"**{heading}**: {text}\n" for heading, text in [*warnings(plain, rows), *unfinished(records)]]
    return "\n".join(parts)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `tables.group_rows`, of which there is at least one, as a Markdown table."""
    headings, *settings = setting_cells(rows)
    lines = [[*headings, *FIGURES], ["---"] * len(headings) + ["---:"] * len(FIGURES)]
    lines += [[*cells, *figures(row)] for row, cells in zip(rows, settings, strict=True)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
