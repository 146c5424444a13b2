"""Tables as files and text: CSV of every run, Markdown of the summary."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.records.files import atomic_write_bytes
from graft.reports.tables import Record, value_of, varied_keys
from graft.reports.terminal import with_spread

RESULTS = "results.csv"


def results_csv(records: Sequence[tuple[Path, Record]]) -> str:
    """One line a run: what varied, seed, status, every metric, baselines, gain, cost."""
    names = varied_keys([record for _, record in records if record["status"] == "done"])
    lines = [csv_row(folder, record, names) for folder, record in records]
    columns = dict.fromkeys(column for line in lines for column in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def csv_row(folder: Path, record: Record, names: Sequence[str]) -> dict[str, Any]:
    """One run's line; a run without an end has its status and nothing more."""
    line = {"run": folder.name, "id": record["id"], "status": record["status"], "seed": record["seed"]}
    if record["status"] != "done":
        return line
    line |= {name: value_of(record, name) for name in names}
    line |= record["metrics"]
    for name, baseline in record["baselines"].items():
        line |= {f"{name}/{metric}": value for metric, value in baseline["metrics"].items()}
    return line | {"gain": record["transfer"].get("gain")} | record["cost"]


def write_results_csv(folder: Path, records: Sequence[tuple[Path, Record]]) -> Path:
    """Leave `results.csv` in a sweep's folder."""
    path = folder / RESULTS
    atomic_write_bytes(path, results_csv(records).encode())
    return path


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `tables.group_rows` as a Markdown table."""
    names = list(rows[0]["setting"])
    head = [*names, "n", "accuracy %", "baseline %", "gain", "seconds", "parameters trained"]
    lines = [head, ["---"] * len(names) + ["---:"] * (len(head) - len(names))]
    for row in rows:
        figures = [
            str(row["n"]),
            with_spread(row["accuracy"]),
            with_spread(row["scratch"]),
            with_spread(row["gain"], sign="+"),
            with_spread(row["seconds"], scale=1.0),
            f"{row['trainable_parameters']:,}",
        ]
        lines.append([*(str(value) for value in row["setting"].values()), *figures])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
