"""A sweep: its folder, its jobs through Hydra's launchers, its table at the end."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from rich.text import Text

from graft.cli.compose import Sweep, in_common
from graft.cli.folders import is_interrupted_sweep, point_latest
from graft.cli.garbage import untidied
from graft.cli.in_turn import goes_in_turn, run_in_turn
from graft.cli.jobs import resumable, sweep_job
from graft.cli.launchers import jobs_at_once
from graft.cli.loader import parsed
from graft.cli.overrides import requote
from graft.cli.parallel import shared_cores
from graft.cli.search.settings import SEARCH
from graft.cli.source import PRIMARY
from graft.cli.states import DONE, FAILED, MISSING, QUEUED, RUNNING, forget_stop, state_of, stoppable, unwritable
from graft.cli.sweep_file import (
    Job,
    add_launch,
    load_sweep,
    sweep_folder,
    sweep_settings,
    titles,
    unfinished,
    write_sweep,
)
from graft.cli.watch import watched
from graft.errors import LostJobError
from graft.records.record import RECORD, load_record, natural_order
from graft.reports.console import make_console
from graft.reports.notes import reason
from graft.reports.terminal import print_note


@contextmanager
def begin_sweep(sweep: Sweep, config_dir: Path | None) -> Iterator[tuple[Path, int]]:
    """The sweep's folder under lock and the number of the launch that this is in it."""
    name = sweep_settings(sweep)["name"]
    outputs = Path(sweep.configs[0]["paths"]["outputs"]).expanduser()
    with sweep_folder(sweep, outputs, name) as folder:
        if name is None and is_interrupted_sweep(folder):
            print(f"graft: continuing the interrupted sweep in {folder} (remove it to begin anew)")
        launch = add_launch(folder, sweep, config_dir, name)
        point_latest(outputs, folder)
        yield folder, launch


def run_launch(hydra: Hydra, folder: Path, number: int) -> None:
    """Run the jobs of a launch that are not done yet.

    Raises:
        KeyboardInterrupt: there was a Ctrl-C; it says how to go on.
    """
    description = load_sweep(folder)
    overrides, jobs = description["launches"][number]["overrides"], description["jobs"]
    if jobs is None:
        with resumable(folder), stoppable(folder):
            launch(hydra, overrides, folder, None)
        return
    left = unfinished(folder, jobs)
    asked_for = [job for job in left if job["launch"] == number]
    num_done = len(jobs) - len(left)
    if num_done:
        print(f"graft: {num_done} of {len(jobs)} jobs are done already, in {folder}")
    if not asked_for:
        return
    title_of = titles(jobs)
    shown = [(folder / job["folder"], title_of[job["folder"]]) for job in asked_for]
    with resumable(folder), watched(shown, num_done, len(jobs)), stoppable(folder):
        launch(hydra, overrides, folder, asked_for)


def launch(hydra: Hydra, overrides: list[str], folder: Path, jobs: Sequence[Job] | None) -> None:
    """Let Hydra's launcher run the jobs, or its sweeper where it finds them itself, as `Hydra.multirun` does.

    Unless the user asks for it, a job has no folder `.hydra`: its record holds its configuration, `sweep.json` its
    overrides, and the sweep's `multirun.yaml` Hydra's own part, which takes as long to write for each as all the rest.
    """
    loader = hydra.config_loader
    where = requote(loader, [f"hydra.sweep.dir={folder}", "hydra.mode=MULTIRUN"])
    common = ["hydra.output_subdir=null", *in_common(loader, overrides), *where]
    config = hydra.compose_config(PRIMARY, common, RunMode.MULTIRUN, with_log_configuration=True)
    task_overrides = [text for text in overrides if not parsed(text).is_hydra_override()]
    with read_write(config.hydra):
        config.hydra.overrides.task = task_overrides
    callbacks = Callbacks(config)
    callbacks.on_multirun_start(config=config, config_name=PRIMARY)
    context = HydraContext(config_loader=loader, callbacks=callbacks)
    plugins = Plugins.instance()
    sweeper = plugins.instantiate_sweeper(config=config, hydra_context=context, task_function=sweep_job)
    try:
        with shared_cores(jobs_at_once(config.hydra.launcher, len(jobs or ()))):
            if jobs is None:
                sweeper.sweep(arguments=task_overrides)
            else:
                launch_jobs(sweeper, config, loader, jobs)
    finally:
        untidied()
    callbacks.on_multirun_end(config=config, config_name=PRIMARY)


def launch_jobs(sweeper: Any, config: DictConfig, loader: ConfigLoader, jobs: Sequence[Job]) -> None:
    """Do as Hydra's basic sweeper does, with jobs that are known, each in its folder."""
    OmegaConf.save(config, Path(config.hydra.sweep.dir) / "multirun.yaml")
    if goes_in_turn(config):
        run_in_turn(loader, config, jobs)
        return
    lists = [[*job["overrides"], f"hydra.sweep.subdir='{job['folder']}'"] for job in jobs]
    num_launched = 0
    for batch in BasicSweeper.split_overrides_to_chunks(lists, sweeper.max_batch_size):
        sweeper.validate_batch_is_legal(batch)  # composes here what processes of a launcher then need not read again
        results = sweeper.launcher.launch(batch, initial_job_idx=num_launched)
        for job, result in zip(jobs[num_launched:], results, strict=False):
            raise_unless_lost(job, result)
        num_launched += len(batch)


def raise_unless_lost(job: Job, result: JobReturn) -> None:
    """Raise what a job did not write down itself; that a process was lost is told, for the other jobs matter too."""
    if isinstance(error := result._return_value, LostJobError):
        print(f"graft: job {job['folder']}: {error}", file=sys.stderr)
    else:
        _ = result.return_value


def end_sweep(folder: Path) -> int:
    """Print and write the summary of all jobs; returns the exit code, 0 where all are done."""
    description = load_sweep(folder)
    if (folder / SEARCH).exists():
        from graft.cli.search.closing import close

        failed = close(folder, description["launches"][-1]["config_dir"])
        return end(folder, description, is_done=not failed)
    jobs = description["jobs"] or found_jobs(folder)
    states = {job["folder"]: state_of(folder / job["folder"]) for job in jobs}
    summarise(folder, jobs, states)
    return end(folder, description, is_done=set(states.values()) <= {DONE})


def end(folder: Path, description: dict[str, Any], is_done: bool) -> int:
    """Note how the sweep ended; returns the exit code. The same command goes on with one that could not write."""
    status = DONE if is_done else RUNNING if unwritable(folder) else FAILED
    write_sweep(folder, description | {"status": status})
    forget_stop(folder)
    return 0 if is_done else 1


def found_jobs(folder: Path) -> list[Job]:
    """The jobs of a sweeper that finds them while it runs."""
    return [
        {"folder": path.parent.name, "overrides": []} for path in sorted(folder.glob(f"*/{RECORD}"), key=natural_order)
    ]


def summarise(folder: Path, jobs: Sequence[Job], states: Mapping[str, str]) -> None:
    """Write results.csv, print the table of what is done and a line for each job that is not."""
    from graft.reports.export import write_results_csv
    from graft.reports.terminal import print_summary

    console = make_console()
    records = [(folder / job, load_record(folder / job)) for job, state in states.items() if state in (DONE, FAILED)]
    write_results_csv(folder, records)
    print_summary([(path, record) for path, record in records if record["status"] == DONE], console)
    title_of = titles(jobs)
    for path, record in records:
        if record["status"] == FAILED:
            text = f"{reason(record)}{tries(record)}; {where_it_is_told(path, record)}"
            print_note(FAILED, f"{job_name(path, title_of)}: {text}", "bold red", console)
    for job, state in states.items():
        if state == MISSING:
            text = f"{job_name(folder / job, title_of)}: its process ended before it did"
            print_note(MISSING, text, "bold red", console)
        elif state == RUNNING:
            text = f"{job_name(folder / job, title_of)}: another process is at work on it"
            print_note(RUNNING, text, "bold yellow", console)
    counts = Counter(states.values())
    if counts[QUEUED]:
        print_note(QUEUED, f"{counts[QUEUED]} jobs have not begun", "bold yellow", console)
    console.print(Text(str(folder), style="dim"), soft_wrap=True)
    if left := len(states) - counts[DONE]:
        text = f"graft resume {folder} runs the {left} of {len(states)} that are not done"
        console.print(Text(text), soft_wrap=True)


def job_name(folder: Path, title_of: Mapping[str, str]) -> str:
    """A job by its number and what sets it apart."""
    title = title_of[folder.name]
    return f"job {folder.name} ({title})" if title else f"job {folder.name}"


def tries(record: Mapping[str, Any]) -> str:
    """How often a run was tried, where that was more than once."""
    return f" (the last of {record['tries']} tries)" if record.get("tries", 1) > 1 else ""


def where_it_is_told(folder: Path, record: Mapping[str, Any]) -> str:
    """Where the whole story of a failure is."""
    logs = sorted(folder.glob("*.log"))
    place = logs[0] if logs else folder / RECORD
    return f"{'traceback' if str(record['error']).startswith('Traceback') else 'more'} in {place}"
