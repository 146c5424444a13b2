"""One run in its folder: built, run, and written down also when it fails."""

import gc
import logging
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from graft.cli.compose import plain_config
from graft.cli.folders import locked
from graft.errors import UserError
from graft.records.record import RECORD, end_record, load_record, run_identity, start_record, write_record

log = logging.getLogger(__name__)


def check(config: dict[str, Any]) -> list[str]:
    """All that is wrong with a configuration."""
    from graft.build.validation import validate

    return validate(config)


def refuse(errors: list[str]) -> None:
    """Raise all errors as one.

    Raises:
        UserError: where there are errors.
    """
    if errors:
        raise UserError("\n".join(dict.fromkeys(errors)))


def run_in(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a validated configuration in a folder, or go on there, and return the record.

    A run that fails after it began says so in its record; one that is interrupted stays as it is, to go on later.
    """
    from graft.build.assembly import build_experiment
    from graft.pipeline import run

    begun_anew(folder)
    try:
        with interrupts():
            return run(build_experiment(config), folder)
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


def single_job(done: Callable[[dict[str, Any]], None]) -> Callable[[DictConfig], None]:
    """The task of a single run, for Hydra; `done` gets the record."""

    def task(composed: DictConfig) -> None:
        config = plain_config(composed, GlobalHydra.instance().config_loader())
        done(run_in(config, output_folder()))

    return task


def sweep_job(composed: DictConfig) -> None:
    """The task of one job of a sweep, for Hydra: a failure is written down and does not stop the others."""
    folder, settings = output_folder(), HydraConfig.get()
    title = f"job {settings.job.num}: {' '.join(settings.overrides.task)}"
    config = plain_config(composed, GlobalHydra.instance().config_loader())
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
            run_in(config, folder)
        except Exception as error:
            write_failure(folder, config, error)
            log.error("job %s failed: %s", settings.job.num, str(error).strip().partition("\n")[0] or type(error).__name__)
            log.debug("", exc_info=error)
    gc.collect()  # networks hang in reference cycles; a long sweep must not pile them up


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
    return True
