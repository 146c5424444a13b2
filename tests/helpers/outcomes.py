"""What runs arrived at, for comparisons."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

TIMES = ("seconds", "images_per_second")  # in names of columns that differ between any two runs


def record_in(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return record


def outcome(folder: Path) -> tuple[Any, ...]:
    """What must not depend on where and how a run was carried out: metrics, history and weights, to the last bit."""
    record = record_in(folder)
    rows = [{name: value for name, value in row.items() if not is_time(name)} for row in record["history"]]
    weights = {
        (path.name, name): tensor.numpy().tobytes()
        for path in sorted((folder / "weights").glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }
    assert weights, folder
    return record["id"], record["status"], record["metrics"], rows, weights


def is_time(column: str) -> bool:
    return any(word in column for word in TIMES)
