"""A sweep: its folder, its jobs through Hydra's launchers, its table at the end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import read_write

from graft.cli.compose import Sweep, in_common
from graft.cli.folders import SWEEP, claimed, is_interrupted_sweep, point_latest
from graft.cli.jobs import resumable, sweep_job, untidied
from graft.cli.overrides import requote
from graft.cli.parallel import parallel_jobs, shared_cores
from graft.cli.source import PRIMARY
from graft.errors import UserError
from graft.records.files import atomic_write_json, read_json
from graft.records.hashing import content_hash
from graft.records.record import RECORD, load_record, run_identity
from graft.reports.console import make_console

SCHEMA = 1


@contextmanager
def begin_sweep(sweep: Sweep, config_dir: Path | None) -> Iterator[Path]:
    """The sweep's folder under lock: a new one, or that of the same sweep when it was interrupted."""
    from graft.build.assembly import experiment_name

    config = sweep.configs[0]
    outputs = Path(config["paths"]["outputs"]).expanduser()
    identity = content_hash([*sweep.overrides, *(run_identity(config) for config in sweep.configs)])[:8]
    with claimed(outputs / experiment_name(config), identity, "-sweep", is_interrupted_sweep) as folder:
        if is_interrupted_sweep(folder):
            print(f"graft: continuing the interrupted sweep in {folder} (remove it to begin anew)")
        description = {
            "schema": SCHEMA,
            "status": "running",
            "overrides": sweep.overrides,
            "jobs": sweep.jobs,
            "cwd": str(Path.cwd()),
            "config_dir": str(config_dir.expanduser().absolute()) if config_dir else None,
        }
        atomic_write_json(folder / SWEEP, description)
        point_latest(outputs, folder)
        yield folder


def load_sweep(folder: Path) -> dict[str, Any]:
    """What a sweep's folder says about it.

    Raises:
        UserError: it cannot be read.
    """
    description = read_json(folder / SWEEP)
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        raise UserError(f"{folder / SWEEP}: not a sweep that this graft can read")
    return description


def run_sweep(hydra: Hydra, folder: Path) -> int:
    """Run the jobs that are not done yet, then print and write the summary; returns the exit code."""
    description = load_sweep(folder)
    with resumable(folder):
        launch(hydra, description["overrides"], folder)
    failed = summarise(folder, description["jobs"])
    atomic_write_json(folder / SWEEP, description | {"status": "failed" if failed else "done"})
    return 1 if failed else 0


def launch(hydra: Hydra, overrides: list[str], folder: Path) -> None:
    """Let Hydra's sweeper and launcher run the jobs, as `Hydra.multirun` does but for `in_common`.

    Unless the user asks for it, a job has no folder `.hydra`: its record holds its configuration, `sweep.json` its
    overrides, and the sweep's `multirun.yaml` Hydra's own part, which takes as long to write for each as all the rest.
    """
    loader = hydra.config_loader
    where = requote(loader, [f"hydra.sweep.dir={folder}", "hydra.mode=MULTIRUN"])
    common = ["hydra.output_subdir=null", *in_common(loader, overrides), *where]
    config = hydra.compose_config(PRIMARY, common, RunMode.MULTIRUN, with_log_configuration=True)
    task_overrides = [text for text in overrides if not text.startswith(("hydra.", "hydra/"))]
    with read_write(config.hydra):
        config.hydra.overrides.task = task_overrides
    callbacks = Callbacks(config)
    callbacks.on_multirun_start(config=config, config_name=PRIMARY)
    context = HydraContext(config_loader=loader, callbacks=callbacks)
    plugins = Plugins.instance()
    sweeper = plugins.instantiate_sweeper(config=config, hydra_context=context, task_function=sweep_job)
    num_jobs = len(load_sweep(folder)["jobs"] or ())
    try:
        with shared_cores(parallel_jobs(config.hydra.launcher.get("n_jobs", 1), num_jobs)):
            sweeper.sweep(arguments=task_overrides)
    finally:
        untidied()
    callbacks.on_multirun_end(config=config, config_name=PRIMARY)


def summarise(folder: Path, jobs: Sequence[Sequence[str]] | None) -> bool:
    """Write results.csv and print the table of a sweep; True where a job failed or is missing."""
    from graft.reports.export import write_results_csv
    from graft.reports.terminal import print_summary

    console = make_console()
    paths = sorted(folder.glob(f"*/{RECORD}"), key=lambda path: (len(path.parent.name), path.parent.name))
    records = [(path.parent, load_record(path)) for path in paths]
    write_results_csv(folder, records)
    print_summary(records, console)
    missing = [number for number in range(len(jobs or ())) if not (folder / str(number) / RECORD).exists()]
    for number in missing:
        console.print(f"missing: {folder / str(number)} left no record", style="bold red", soft_wrap=True)
    console.print(str(folder), style="dim", soft_wrap=True)
    bad = len(missing) + sum(record["status"] != "done" for _, record in records)
    if bad:
        console.print(
            f"graft resume {folder} runs the {bad} of {len(jobs or records)} that are not done", soft_wrap=True
        )
    return bad > 0
