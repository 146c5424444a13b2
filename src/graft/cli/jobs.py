"""One run in its folder: built, run, and written down also when it fails."""

import gc
import logging
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig

from graft.cli.compose import job_config, own_overrides, refuse
from graft.cli.folders import SWEEP, locked
from graft.errors import UserError
from graft.records.files import read_json
from graft.records.place import Place
from graft.records.record import RECORD, end_record, load_record, run_identity, start_record, write_record

log = logging.getLogger(__name__)

TIDY_EVERY = 1.0  # seconds
MOST_IN_NAME = 100  # characters of a folder's name


def check(config: dict[str, Any]) -> list[str]:
    """All that is wrong with a configuration."""
    from graft.build.remember import remembered
    from graft.build.validation import validate

    return remembered("errors", config, lambda: validate(config))


def run_in(config: dict[str, Any], folder: Path, overrides: Sequence[str] | None = None) -> dict[str, Any]:
    """Run a validated configuration in a folder, or go on there, and return the record.

    A run that fails after it began says so in its record; one that is interrupted stays as it is, to go on later.
    `overrides` are those of a job of a sweep.
    """
    from graft.build.assembly import build_experiment
    from graft.pipeline import run
    from graft.threads import paying_threads

    begun_anew(folder)
    try:
        experiment = replace(build_experiment(config), place=place_of(folder, overrides))
        with interrupts(), paying_threads(experiment):
            return run(experiment, folder)
    except Exception as error:
        if (folder / RECORD).exists():
            write_failure(folder, config, error)
        raise


@contextmanager
def interrupts() -> Iterator[None]:
    """Ctrl-C as a KeyboardInterrupt, also where Lightning turns it into an exit of its own and stops listening."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """An interrupt says how to go on in `folder`."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"the same command goes on from there, or: graft resume {folder}") from interrupt


def begun_anew(folder: Path) -> None:
    """Take the failure back from the record of a run that is tried again."""
    if (folder / RECORD).exists():
        write_record(folder, load_record(folder) | {"status": "running", "finished": None, "error": None})


def write_failure(folder: Path, config: dict[str, Any], error: BaseException) -> None:
    """Say in the record that the run failed, and why."""
    from graft.build.assembly import experiment_name

    begun = (folder / RECORD).exists()
    record = load_record(folder) if begun else start_record(experiment_name(config), config["seed"], config)
    if isinstance(error, UserError):
        reason = str(error)
    else:
        reason = "".join(traceback.format_exception(error)).strip()
    write_record(folder, end_record(record, "failed", reason))


@dataclass
class SingleJob:
    """The task of a single run, for Hydra; keeps what came of it."""

    record: dict[str, Any] | None = None
    error: Exception | None = None

    def __call__(self, composed: DictConfig) -> None:
        """Run; an error is kept, since Hydra would print its own words about it."""
        config = composed_config(composed)
        try:
            self.record = run_in(config, output_folder())
        except Exception as error:
            self.error = error

    def result(self) -> dict[str, Any]:
        """The record; or the error that ended the run is raised."""
        if self.error is not None:
            raise self.error
        assert self.record is not None
        return self.record


def sweep_job(composed: DictConfig) -> None:
    """The task of one job of a sweep, for Hydra: a failure is written down and does not stop the others."""
    make_ready()
    folder, number = output_folder(), HydraConfig.get().job.num
    overrides = list(HydraConfig.get().overrides.task)
    title = job_title(folder.parent, number, overrides)
    config = composed_config(composed)
    if is_done(folder, config):
        log.info("%s (done before)", title)
        return
    log.info("%s", title)
    with locked(folder) as free:
        if not free:
            log.info("%s is being run by another process", folder)
            return
        try:
            refuse(check(config))
            run_in(config, folder, overrides)
        except Exception as error:
            write_failure(folder, config, error)
            log.error("job %s failed: %s", number, one_line(error))
            log.debug("", exc_info=error)
    tidy()


def make_ready() -> None:
    """Import what jobs need; in a process that a launcher started, Lightning sets up its own logging meanwhile."""
    if "pytorch_lightning" not in sys.modules:
        import pytorch_lightning  # noqa: F401

        logging.raiseExceptions = False  # as in `main`: a reader that has seen enough of our output is no news
        settings: Any = HydraConfig.get()
        configure_log(settings.job_logging, settings.verbose)


def composed_config(composed: DictConfig) -> dict[str, Any]:
    """The plain configuration of what Hydra composed for the job that it runs."""
    loader = GlobalHydra.instance().config_loader()
    return job_config(loader, list(HydraConfig.get().overrides.task), lambda: composed)


def tidy() -> None:
    """Free the networks of jobs that are over, which hang in reference cycles; a long sweep must not pile them up.

    Short jobs are tidied up after together. What a process' first job imported stays, and is set aside, so that later
    collections need not look through it.
    """
    if time.monotonic() < _tidied.get("at", -TIDY_EVERY) + TIDY_EVERY:
        return
    gc.collect()
    if not _tidied:
        gc.freeze()
    _tidied["at"] = time.monotonic()


def untidied() -> None:
    """A sweep is over: collections look through everything again."""
    gc.unfreeze()
    _tidied.clear()


_tidied: dict[str, float] = {}  # when it was done last, in this process and sweep


def job_title(sweep: Path, number: int, overrides: list[str]) -> str:
    """The job's number and what sets it apart from the other jobs."""
    jobs: list[list[str]] = read_json(sweep / SWEEP)["jobs"] or []
    position = f" ({number + 1} of {len(jobs)})" if jobs else ""
    return f"job {number}{position}: {' '.join(own_overrides(overrides, jobs))}"


def place_of(folder: Path, overrides: Sequence[str] | None = None) -> Place:
    """Where the loggers of the run in a folder write: for a job of a sweep, below the sweep's folder.

    Args:
        folder: of the run.
        overrides: of the job, as far as they are known.
    """
    sweep, number = folder.parent, folder.name
    if not (number.isdigit() and (sweep / SWEEP).exists()):
        return Place(folder)
    jobs: list[list[str]] = read_json(sweep / SWEEP)["jobs"] or []
    if overrides is None and not jobs:  # the sweeper alone knew them
        return Place(sweep, next((path.name for path in sweep.glob(f"*/{number} *")), number))
    own = own_overrides(overrides or jobs[int(number)], jobs)
    return Place(sweep, job_name(number, own), overrides=tuple(own))


def job_name(number: str, own: Sequence[str]) -> str:
    """The job's number and what sets it apart, as the name of a folder.

    >>> job_name("3", ["strategy=lp_ft", "target.path=a/b.npz"])
    '3 strategy=lp_ft target.path=a_b.npz'
    """
    return " ".join([number, *own]).replace("/", "_")[:MOST_IN_NAME].rstrip()


def one_line(error: Exception) -> str:
    """An error in a line."""
    first = str(error).strip().partition("\n")[0]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}".removesuffix(": ")


def is_done(folder: Path, config: dict[str, Any]) -> bool:
    """Whether the folder holds the finished run of this configuration."""
    if not (folder / RECORD).exists():
        return False
    record = load_record(folder)
    return record["status"] == "done" and record["id"] == run_identity(config)


def output_folder() -> Path:
    """The folder that Hydra gave the job."""
    return Path(HydraConfig.get().runtime.output_dir)


def discard_unless_begun(folder: Path) -> bool:
    """Remove the folder of a run that never began; True where it was removed."""
    if (folder / RECORD).exists():
        return False
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # others have runs in it
        folder.parent.rmdir()
    return True


def log_to_terminal(level: int = logging.INFO) -> None:
    """Print what a run says of its progress where Hydra does not set that up."""
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
