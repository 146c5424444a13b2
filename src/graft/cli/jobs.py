"""One run in its folder: built, run, and written down also when it fails."""

import logging
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig

from graft.cli.compose import job_config, refuse
from graft.cli.folders import LOCK, SWEEP, locked
from graft.cli.garbage import imports_aside, set_imports_aside, tidy
from graft.cli.search.trials import read_report
from graft.cli.states import UNWRITABLE, ask_to_stop, asked_to_stop, interrupted, launched_elsewhere, preempted
from graft.cli.sweep_file import load_sweep, own_by_folder
from graft.errors import PrunedError, UserError, of_file, storage_error
from graft.preemption import PreemptedError, also_asked, asked, listening, prompt
from graft.records.files import remove_left_over
from graft.records.place import Place
from graft.records.record import RECORD, end_record, load_record, run_identity, start_record, write_record

if TYPE_CHECKING:
    from graft.callbacks.reporting import Report

log = logging.getLogger(__name__)

NOTE = "progress"  # the file in which a job of a sweep notes how far it is
MOST_IN_NAME = 100  # characters of a folder's name


def check(config: dict[str, Any]) -> list[str]:
    """All that is wrong with a configuration."""
    from graft.build.remember import remembered
    from graft.build.validation import validate

    return remembered("errors", config, lambda: validate(config))


def run_in(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a validated configuration in a folder, or go on there, and return the record.

    A run that fails after it began says so in its record; one that is interrupted stays as it is, to go on later, and
    so does one that has no room for what it writes.

    Raises:
        UserError: there was no room, or no permission, with how to go on.
    """
    from graft.build.assembly import build_experiment

    begun_anew(folder)
    try:
        with imports_aside():
            return run_experiment(replace(build_experiment(config), place=place_of(folder)), folder)
    except Exception as error:
        begun, not_written = (folder / RECORD).exists(), storage_error(error)
        if begun and not_written is not None:
            raise UserError(cannot_write(folder, not_written)) from error
        if begun:
            write_failure(folder, config, error)
        raise


def cannot_write(folder: Path, error: OSError) -> str:
    """What keeps a run from going on in its folder, and how it does once that is mended."""
    return (
        f"{of_file(error)}\n"
        f"what was saved before is whole; once that is mended the same command goes on, or: graft resume {folder}"
    )


def run_experiment(experiment: Any, folder: Path, report: "Report | None" = None) -> dict[str, Any]:
    """Run the experiment with the threads that pay for it, and return the record; `report` may end the run early."""
    from graft.pipeline import run
    from graft.threads import paying_threads

    try:
        with interrupts(), prompt(), paying_threads(experiment):
            remove_left_over(folder)
            return run(experiment, folder, report)
    except PrunedError as end:
        return write_pruned(folder, end)


@contextmanager
def interrupts() -> Iterator[None]:
    """Ctrl-C as a KeyboardInterrupt, also where Lightning turns it into an exit of its own and stops listening.

    So is SIGTERM, as the kind that it is.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise (PreemptedError if asked() else KeyboardInterrupt) from error
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """An interrupt says how to go on in `folder`."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(f"the same command goes on from there, or: graft resume {folder}") from interrupt


def begun_anew(folder: Path) -> None:
    """Take the failure back from the record of a run that is tried again."""
    if (folder / RECORD).exists() and (record := load_record(folder))["status"] == "failed":
        write_record(folder, tried_again(record) | {"status": "running", "finished": None, "error": None})


def tried_again(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a run that failed and begins another try; `tries` is how many it took, 1 where it is absent."""
    return record | {"tries": record.get("tries", 1) + 1}


def begun_record(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The record in the folder, or a new one where the run came to nothing before it wrote one."""
    from graft.build.assembly import experiment_name

    begun = (folder / RECORD).exists()
    return load_record(folder) if begun else start_record(experiment_name(config), config["seed"], config)


def write_failure(folder: Path, config: dict[str, Any], error: BaseException) -> None:
    """Say in the record that the run failed, and why."""
    if isinstance(error, UserError):
        reason = str(error)
    else:
        reason = "".join(traceback.format_exception(error)).strip()
    write_record(folder, end_record(begun_record(folder, config), "failed", reason))


def write_pruned(folder: Path, end: PrunedError) -> dict[str, Any]:
    """Say in the record that a search ended the run early, and return it."""
    pruned = {"epoch": end.epoch, end.metric: end.value}
    record = end_record(load_record(folder) | {"pruned": pruned}, "pruned")
    write_record(folder, record)
    return record


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
    """The task of one job of a sweep, for Hydra: a failure is written down and does not stop the others.

    An interrupt that its sweep hears ends the job alone where another process launched it, which may wait for others.
    """
    if launched_elsewhere():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that launched this one hears it
    prepare_logging()
    begin_job(composed_config(composed), output_folder(), list(HydraConfig.get().overrides.task))


def begin_job(config: dict[str, Any], folder: Path, overrides: Sequence[str]) -> None:
    """Run a job of a sweep in its folder, unless it is done, another process runs it, or the sweep shall stop."""
    with listening(), also_asked(partial(preempted, folder.parent)):
        run_sweep_job(config, folder, overrides)


def run_sweep_job(config: dict[str, Any], folder: Path, overrides: Sequence[str]) -> None:
    """The same, where it is heard that the job shall end."""
    quieten_terminal()
    report = read_report(folder)
    overrides = report.overrides if report is not None else overrides
    if asked_to_stop(folder.parent) is not None:
        stay_queued(folder)
        return
    with locked(folder) as free:
        if not free:
            log.warning("%s is being run by another process", folder)
            return
        begin_again_where_damaged(folder)
        if is_done(folder, config):
            return
        log.info("%s", " ".join(overrides))
        set_imports_aside()
        try:
            with stopped_by_sweep(folder.parent):
                run_with_retries(config, folder, overrides, report)
        except KeyboardInterrupt:
            if not (launched_elsewhere() and interrupted(folder.parent)):
                raise
    tidy()


def run_with_retries(config: dict[str, Any], folder: Path, overrides: Sequence[str], report: "Report | None") -> None:
    """Run a job, again where it fails and may be tried again; the failure of its last try goes into its record."""
    for retries_left in reversed(range(config["sweep"]["retries"] + 1)):
        try:
            refuse(check(config))
            begun_anew(folder)
            run_experiment(job_experiment(config, folder, overrides), folder, report)
            return
        except Exception as error:
            if interrupted(folder.parent):
                raise
            log.info("", exc_info=error)  # for the file
            not_written = storage_error(error)
            if not_written is not None:
                with suppress(OSError):
                    ask_to_stop(folder.parent, UNWRITABLE)
                error = UserError(of_file(not_written))
            if isinstance(error, UserError) or not retries_left:
                write_failure(folder, config, error)
                break
            log.warning("job %s: %s; is tried again", folder.name, one_line(error))
            write_record(folder, tried_again(begun_record(folder, config)))
        finally:
            (folder / NOTE).unlink(missing_ok=True)
    if config["sweep"]["fail_fast"]:
        ask_to_stop(folder.parent, f"job {folder.name} failed")


def job_experiment(config: dict[str, Any], folder: Path, overrides: Sequence[str]) -> Any:
    """The experiment of a job, which notes how far it is and can be stopped between epochs."""
    from graft.build.assembly import build_experiment
    from graft.callbacks.progress import JobProgress

    experiment = replace(build_experiment(config), place=place_of(folder, overrides))
    progress = JobProgress(folder / NOTE, partial(interrupted, folder.parent))

    def watched(training: Any) -> Any:
        return replace(training, callbacks=lambda: [*training.callbacks(), progress])

    return replace(experiment, pretrain=watched(experiment.pretrain), transfer=watched(experiment.transfer))


@contextmanager
def stopped_by_sweep(sweep: Path) -> Iterator[None]:
    """What ends a job once its sweep was interrupted is that interrupt; processes started for a job may fail of it."""
    try:
        yield
    except Exception as error:
        if interrupted(sweep):
            raise KeyboardInterrupt from error
        raise


def begin_again_where_damaged(folder: Path) -> None:
    """Remove a record that cannot be read; the job goes on from its checkpoints."""
    if (folder / RECORD).exists():
        try:
            load_record(folder)
        except UserError as error:
            log.warning("%s; the job is run again", error)
            (folder / RECORD).unlink()


def stay_queued(folder: Path) -> None:
    """Remove the folder that Hydra made for a job that shall not begin, unless it has been at work before."""
    if not (folder / LOCK).exists():
        shutil.rmtree(folder, ignore_errors=True)


def prepare_logging() -> None:
    """Set logging up once more in a process that a launcher started, where importing Lightning brings its own."""
    if "pytorch_lightning" not in sys.modules:
        import pytorch_lightning  # noqa: F401

        logging.raiseExceptions = False  # as in `main`: a reader that has seen enough of our output is no news
        settings: Any = HydraConfig.get()
        configure_log(settings.job_logging, settings.verbose)


def quieten_terminal() -> None:
    """The terminal shows the sweep as a whole; files have every word."""
    for handler in logging.getLogger().handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.WARNING)


def composed_config(composed: DictConfig) -> dict[str, Any]:
    """The plain configuration of what Hydra composed for the job that it runs."""
    loader = GlobalHydra.instance().config_loader()
    return job_config(loader, list(HydraConfig.get().overrides.task), lambda: composed)


def place_of(folder: Path, overrides: Sequence[str] | None = None) -> Place:
    """Where the loggers of the run in a folder write: for a job of a sweep, below the sweep's folder.

    Args:
        folder: of the run.
        overrides: of the job, where the sweeper alone knows them.
    """
    sweep, number = folder.parent, folder.name
    if not (number.isdigit() and (sweep / SWEEP).exists()):
        return Place(folder)
    jobs = load_sweep(sweep)["jobs"]
    if overrides is None and jobs is None:  # the sweeper alone knew them
        return Place(sweep, next((path.name for path in sweep.glob(f"*/{number} *")), number))
    own = own_by_folder(jobs)[number] if jobs is not None else list(overrides or ())
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
    return record["status"] in ("done", "pruned") and record["id"] == run_identity(config)


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
