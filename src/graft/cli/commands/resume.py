"""Go on with an interrupted or failed run, or run what is missing or failed of a sweep.

Takes the folder of a run or of a sweep: graft resume outputs/latest
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from graft.cli.arguments import command_parser, parse
from graft.cli.compose import compose_sweep, hydra_application, refuse, refuse_jobs
from graft.cli.folders import SWEEP, locked, point_latest
from graft.cli.jobs import check, log_to_terminal, run_in
from graft.cli.sweep_file import load_sweep, unfinished
from graft.cli.sweeps import end_sweep, run_launch
from graft.errors import UserError, nearest_path
from graft.records.record import RECORD, load_record
from graft.reports.console import make_console
from graft.reports.notes import reason


def main(arguments: Sequence[str]) -> int:
    """Resume the run or sweep in a folder; returns the exit code."""
    parser = command_parser("resume")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a run or of a sweep")
    folder = existing(parse(parser, arguments).folder)
    with locked(folder) as free:
        if not free:
            raise UserError(f"{folder}: is being run by another process")
        return resume_sweep(folder) if (folder / SWEEP).exists() else resume_run(folder)


def go_back(folder: Path | str | None) -> None:
    """Work where the run was started, since its configuration may hold paths that begin there."""
    if folder is not None and Path(folder).is_dir():
        os.chdir(folder)


def started_in(folder: Path) -> str | None:
    """Where the run in `folder` was started, as Hydra noted."""
    note = folder / ".hydra" / "hydra.yaml"
    return OmegaConf.select(OmegaConf.load(note), "hydra.runtime.cwd") if note.is_file() else None


def existing(folder: Path) -> Path:
    """The folder itself, which a link may lead to.

    Raises:
        UserError: it is not there, or neither a run nor a sweep.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder{nearest_path(folder)}")
    if not any((folder / name).exists() for name in (RECORD, SWEEP)):
        raise UserError(f"{folder}: neither a run nor a sweep; expected {RECORD} or {SWEEP} in it")
    return folder


def resume_run(folder: Path) -> int:
    """Go on with the run in a folder, from the configuration in its record."""
    from graft.reports.terminal import print_run

    record = load_record(folder)
    if record["status"] == "pruned":
        print(f"graft: {folder}: {reason(record)}; nothing is left to do")
        return 0
    if record["status"] == "done":
        print(f"graft: {folder} is done already")
    else:
        go_back(started_in(folder))
        refuse(check(record["config"]))
        log_to_terminal()
        outputs = Path(record["config"]["paths"]["outputs"]).expanduser()
        if outputs.is_dir() and outputs.resolve() in folder.parents:
            point_latest(outputs, folder)
        record = run_in(record["config"], folder)
    print_run(record, folder, make_console())
    return 0


def resume_sweep(folder: Path) -> int:
    """Run the jobs of a sweep that are not done."""
    description = load_sweep(folder)
    jobs = description["jobs"]
    left = None if jobs is None else {job["launch"] for job in unfinished(folder, jobs)}
    for number, launch in enumerate(description["launches"]):
        if left is None or number in left:
            resume_launch(folder, number, launch)
    return end_sweep(folder)


def resume_launch(folder: Path, number: int, launch: dict[str, Any]) -> None:
    """Run the jobs of one launch of a sweep that are not done, where and as it was asked for."""
    go_back(launch["cwd"])
    with hydra_application(Path(launch["config_dir"]) if launch["config_dir"] else None) as hydra:
        sweep = compose_sweep(hydra.config_loader, launch["overrides"])
        refuse_jobs([check(config) for config in sweep.configs], sweep.checked)
        run_launch(hydra, folder, number)
