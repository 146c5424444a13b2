"""What a sweep's folder says of it: its jobs, and the launches that asked for them."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graft.cli.compose import Sweep, common_overrides
from graft.cli.folders import LOCK, SWEEP, claimed, is_interrupted_sweep, locked
from graft.cli.states import DONE, state_of
from graft.errors import UserError
from graft.records.files import atomic_write_json, file_lock, read_json
from graft.records.hashing import content_hash
from graft.records.record import RECORD, run_identity

SCHEMA = 2
NAMED = "sweeps"  # the folder of sweeps that have a name
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RERUNNING = ("ddp", "deepspeed")  # strategies of Lightning that start the program anew for each device

Job = dict[str, Any]  # `folder` within the sweep's, `id` of the run, `launch` by its number, `overrides`


def sweep_settings(sweep: Sweep) -> dict[str, Any]:
    """The settings that all jobs share.

    Raises:
        UserError: they differ between jobs, or cannot be used.
    """
    settings: dict[str, Any] = sweep.configs[0]["sweep"]
    if any(config["sweep"] != settings for config in sweep.configs):
        raise UserError("sweep.name, sweep.fail_fast, sweep.retries: each takes one value for the whole sweep")
    name = settings["name"]
    if name is not None and not NAME.fullmatch(name):
        raise UserError(f"sweep.name={name}: expected letters, digits, '-', '_' and '.', a letter or digit first")
    if settings["retries"] < 0:
        raise UserError(f"sweep.retries={settings['retries']}: expected 0 or more")
    strategies = {str(config["trainer"].get("strategy")) for config in sweep.configs}
    for strategy in sorted(strategies):
        if strategy.startswith(RERUNNING) and not strategy.endswith(("_spawn", "_fork", "_notebook")):
            raise UserError(f"trainer.strategy={strategy}: runs the whole sweep once per device; expected ddp_spawn")
    if name is not None and sweep.jobs is None:
        raise UserError(f"sweep.name={name}: goes with Hydra's basic sweeper, which knows its jobs beforehand")
    return settings


@contextmanager
def sweep_folder(sweep: Sweep, outputs: Path, name: str | None) -> Iterator[Path]:
    """The sweep's folder under lock: that of its name, or a new one, or that of the same sweep that was interrupted.

    Where another process is at work on the sweep of that name, this one waits for it.
    """
    from graft.build.assembly import experiment_name

    if name is None:
        overrides = [text for text in sweep.overrides if not text.startswith("sweep.")]
        identity = content_hash([*overrides, *(run_identity(config) for config in sweep.configs)])[:8]
        parent = outputs / experiment_name(sweep.configs[0])
        with claimed(parent, identity, "-sweep", is_interrupted_sweep) as folder:
            yield folder
        return
    folder = outputs / NAMED / name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as free:
        if free:
            yield folder
            return
    print(f"graft: waiting for another process that runs {folder}", flush=True)
    with file_lock(folder / LOCK):
        yield folder


def load_sweep(folder: Path) -> dict[str, Any]:
    """What a sweep's folder says about it: `name`, `status`, `launches`, and `jobs` or None where these are not known.

    Raises:
        UserError: it cannot be read.
    """
    description = read_json(folder / SWEEP)
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        raise UserError(f"{folder / SWEEP}: not a sweep that this graft can read")
    return description


def write_sweep(folder: Path, description: Mapping[str, Any]) -> None:
    """Write what `load_sweep` reads."""
    atomic_write_json(folder / SWEEP, description)


def add_launch(folder: Path, sweep: Sweep, config_dir: Path | None, name: str | None) -> int:
    """Note in the folder what is asked for, and return the launch's number.

    A job that the sweep has already, by the identity of its run, keeps its folder; others come after the last. Asked
    for anew, a job that is not done is run as it is asked for now.
    """
    new: dict[str, Any] = {"schema": SCHEMA, "name": name, "launches": [], "jobs": None if sweep.jobs is None else []}
    description = load_sweep(folder) if (folder / SWEEP).exists() else new
    launch = {
        "overrides": sweep.overrides,
        "cwd": str(Path.cwd()),
        "config_dir": str(config_dir.expanduser().absolute()) if config_dir else None,
    }
    launches: list[dict[str, Any]] = description["launches"]
    if launch not in launches:
        launches.append(launch)
    number = launches.index(launch)
    if sweep.jobs is not None:
        add_jobs(folder, description["jobs"], sweep, number)
    write_sweep(folder, description | {"status": "running"})
    return number


def add_jobs(folder: Path, jobs: list[Job], sweep: Sweep, launch: int) -> None:
    """Add a launch's jobs to those of the sweep in `folder`; of several alike, each stands for one that is there."""
    known: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        known[job["id"]].append(job)
    assert sweep.jobs is not None
    for overrides, config in zip(sweep.jobs, sweep.configs, strict=True):
        asked_for = {"id": run_identity(config), "launch": launch, "overrides": overrides}
        same = known[str(asked_for["id"])]
        if not same:
            jobs.append({"folder": str(len(jobs)), **asked_for})
        elif state_of(folder / (job := same.pop(0))["folder"]) != DONE:
            job |= asked_for


def unfinished(folder: Path, jobs: Sequence[Job]) -> list[Job]:
    """The jobs of the sweep in `folder` that are not done."""
    return [job for job in jobs if state_of(folder / job["folder"]) != DONE]


def without_record(folder: Path) -> list[tuple[Path, list[str], int]]:
    """For each sweep at or below a folder that has jobs without a record: its folder, those jobs, and how many it has.

    They have not begun, or were killed before they wrote one.
    """
    found = []
    for path in sorted(folder.rglob(SWEEP)) if folder.is_dir() else ():
        jobs = load_sweep(path.parent)["jobs"] or ()
        if missing := [job["folder"] for job in jobs if not (path.parent / job["folder"] / RECORD).exists()]:
            found.append((path.parent, missing, len(jobs)))
    return found


def own_by_folder(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """The overrides that set each job apart from the others, by its folder."""
    overrides = [[text for text in job["overrides"] if not text.startswith("sweep.")] for job in jobs]
    common = common_overrides(overrides)
    return {
        job["folder"]: [text for text in asked_for if text not in common]
        for job, asked_for in zip(jobs, overrides, strict=True)
    }


def titles(jobs: Sequence[Job]) -> dict[str, str]:
    """What sets each job apart from the others, by its folder."""
    return {folder: " ".join(own) for folder, own in own_by_folder(jobs).items()}
