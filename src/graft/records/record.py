"""The record: what one run leaves, from which every table and plot is made."""

import os
import platform
from collections.abc import Iterable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from graft import __version__
from graft.errors import UserError
from graft.records.files import atomic_write_json, read_json
from graft.records.hashing import content_hash

SCHEMA = 1
RECORD = "record.json"
STATUSES = ("running", "done", "failed")
REQUIRED = ("schema", "id", "status", "experiment", "seed", "config")
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy", "timm")


# Parts of the configuration that say where a run writes and what it shows, not what it computes.
NOT_IDENTITY = ("paths", "logger", "hydra")


def run_identity(config: dict[str, Any]) -> str:
    """Eight hex digits that two runs share when they compute the same."""
    return content_hash({name: value for name, value in config.items() if name not in NOT_IDENTITY})[:8]


def start_record(experiment: str, seed: int, config: dict[str, Any]) -> dict[str, Any]:
    """The record of a run that begins; `config` is plain and resolved."""
    return {
        "schema": SCHEMA,
        "id": run_identity(config),
        "status": "running",
        "experiment": experiment,
        "seed": seed,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "finished": None,
        "error": None,
        "config": config,
        "environment": environment(),
    }


def end_record(record: dict[str, Any], status: str, error: str | None = None) -> dict[str, Any]:
    """The record of a run that ended."""
    assert status in STATUSES
    finished = datetime.now().astimezone().isoformat(timespec="seconds")
    return record | {"status": status, "finished": finished, "error": error}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record of the run in `folder`, whole or not at all."""
    atomic_write_json(folder / RECORD, record)


def load_record(path: Path) -> dict[str, Any]:
    """The record in a run's folder, or in a file.

    Raises:
        UserError: there is none, it is damaged, or a newer graft wrote it.
    """
    path = path / RECORD if path.is_dir() else path
    record = read_json(path)
    if not isinstance(record, dict) or not set(REQUIRED) <= record.keys():
        raise UserError(f"{path}: not a record of graft")
    if record["schema"] != SCHEMA:
        raise UserError(f"{path}: has schema {record['schema']}, this graft ({__version__}) reads schema {SCHEMA}")
    return record


def find_records(folders: Iterable[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """(run folder, record) of every run at or below `folders`, sorted by folder.

    Raises:
        UserError: a folder that does not exist or holds no record, or a record that cannot be read.
    """
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        paths = sorted(path for path in folder.rglob(RECORD) if path.is_file())
        if not paths:
            raise UserError(f"{folder}: no {RECORD} in it or below it")
        found |= {path.parent.resolve(): load_record(path) for path in paths}
    return sorted(found.items())


def environment() -> dict[str, Any]:
    """What the run ran on."""
    return {
        "graft": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := package_version(name)) is not None},
    }


def package_version(name: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
