"""The record: what one run leaves, from which every table and plot is made."""

import gc
import logging
import os
import platform
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from graft import __version__
from graft.errors import UserError, nearest_path
from graft.records.files import atomic_write_sealed_json, read_sealed_json, skim_sealed_json
from graft.records.hashing import content_hash

log = logging.getLogger(__name__)

SCHEMA = 1
RECORD = "record.json"
STATUSES = ("running", "done", "failed", "pruned")
REQUIRED = ("schema", "id", "status", "experiment", "seed", "config")
REQUIRED_WHEN_DONE = (
    *REQUIRED,
    "source",
    "target",
    "backbone",
    "strategy",
    "objective",
    "weights",
    "metrics",
    "selection",
    "baselines",
    "transfer",
    "cost",
    "fingerprints",
    "environment",
    "history",
)
MOST_NAMED = 3  # records that cannot be read
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy", "timm", "peft")

CACHES = tuple(
    f"{domain}.{key}"
    for domain in ("source", "target")
    for key in ("cache", "cache_limit_gib", "index", "reader.index")
)
# Parts of the configuration that say where a run writes and what it shows, not what it computes.
NOT_IDENTITY = ("paths", "logger", "hydra", "sweep", "checkpoints", "features", "analysis", *CACHES)


def run_identity(config: dict[str, Any]) -> str:
    """Eight hex digits that two runs share when they compute the same."""
    return content_hash(_with_rules_in_order(_what_is_computed(config)))[:8]


def _what_is_computed(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The configuration without the keys, dotted ones too, that are no part of a run's identity.

    What is said of a domain holds for each part of one that is made of several.
    """
    prefix = re.sub(r"\.parts\.[^.]+\.$", ".", prefix)
    return {
        key: _what_is_computed(value, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in config.items()
        if f"{prefix}{key}" not in NOT_IDENTITY
    }


def _with_rules_in_order(value: Any) -> Any:
    """The value with every table of rules as a list: the first match wins, so their order is part of what is run."""
    if isinstance(value, list):
        return [_with_rules_in_order(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: [[pattern, rule] for pattern, rule in item.items()]
        if name == "rules" and isinstance(item, dict)
        else _with_rules_in_order(item)
        for name, item in value.items()
    }


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
    atomic_write_sealed_json(folder / RECORD, record)


def load_record(path: Path, without: Collection[str] = ()) -> dict[str, Any]:
    """The record in a run's folder, or in a file; the values of the keys `without` may be left out.

    Raises:
        UserError: there is none, it is damaged or incomplete, or another version of graft wrote it.
    """
    path = path / RECORD if path.is_dir() else path
    record = skim_sealed_json(path, without) if without else read_sealed_json(path)
    if "schema" not in record:
        raise UserError(f"{path}: not a record of graft")
    if record["schema"] != SCHEMA:
        raise UserError(f"{path}: has schema {record['schema']!r}, this graft ({__version__}) reads schema {SCHEMA}")
    required = REQUIRED_WHEN_DONE if record.get("status") == "done" else REQUIRED
    missing = [name for name in required if name not in record and name not in without]
    if missing:
        raise UserError(f"{path}: not a whole record of graft, {', '.join(missing)} missing")
    if record["status"] not in STATUSES:
        raise UserError(f"{path}: has status {record['status']!r}, expected one of: {', '.join(STATUSES)}")
    return record


def open_set_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """`open_set/h_score` and its parts, of a run on a target with classes that the source lacks; of others nothing."""
    scores = record.get("label_space", {}).get("open_set", {}).get("transfer", {})
    return {f"open_set/{name}": value for name, value in scores.items()}


def find_records(
    folders: Iterable[Path], keep: Callable[[dict[str, Any]], dict[str, Any]] = dict, without: Collection[str] = ()
) -> list[tuple[Path, dict[str, Any]]]:
    """(run folder, record) of every run at or below `folders`, sorted by folder.

    Records that cannot be read are left out, and the first of them named in warnings. `keep` makes of each record what
    is to be kept of it, since thousands of whole ones fill the memory; the keys `without` are not even read.

    Raises:
        UserError: a folder that does not exist, or in which no record can be read.
    """
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        paths = list(record_files(folder))
        read, refused = read_all(paths, keep, without)
        for reason in refused[:MOST_NAMED]:
            log.warning("left out: %s", reason)
        if more := refused[MOST_NAMED:]:
            log.warning("left out: %d more records that cannot be read", len(more))
        if not read:
            raise UserError(str(refused[0]) if len(refused) == 1 else f"{folder}: no {RECORD} that can be read")
        found |= read
    return sorted(found.items(), key=lambda item: natural_order(item[0]))


def record_files(folder: Path) -> list[Path]:
    """The record files at or below `folder`, which may be a record file itself."""
    folder = folder.expanduser()
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder{nearest_path(folder)}")
    paths = sorted(path for path in folder.rglob(RECORD) if path.is_file())
    if not paths:
        raise UserError(f"{folder}: no {RECORD} in it or below it")
    return paths


def read_all(
    paths: Iterable[Path], keep: Callable[[dict[str, Any]], dict[str, Any]] = dict, without: Collection[str] = ()
) -> tuple[dict[Path, dict[str, Any]], list[UserError]]:
    """Run folder -> what `keep` makes of the record, for those that can be read, and why the others cannot."""
    read: dict[Path, dict[str, Any]] = {}
    refused: list[UserError] = []
    with no_collection():
        for path in paths:
            try:
                read[path.parent.resolve()] = keep(load_record(path, without))
            except UserError as error:
                refused.append(error)
    return read, refused


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection: JSON has no cycles, and to look for some in ever more records takes long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A sort key under which job 10 comes after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def environment() -> dict[str, Any]:
    """What the run ran on."""
    return deepcopy(_environment())


@cache
def _environment() -> dict[str, Any]:
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
