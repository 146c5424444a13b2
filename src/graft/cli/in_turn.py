"""The jobs of a sweep one after the other in this process, without what Hydra's launcher does for any application."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import configure_log, env_override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from graft.cli.compose import compose_job
from graft.cli.jobs import begin_job
from graft.cli.overrides import requote
from graft.cli.sweep_file import Job


def goes_in_turn(config: DictConfig) -> bool:
    """Whether Hydra's basic launcher would run the jobs of this sweep, with nothing of its own to do around them."""
    hydra = config.hydra
    basic = hydra.launcher._target_.endswith(".BasicLauncher")
    return bool(basic and not (hydra.callbacks or hydra.job.chdir or hydra.output_subdir))


def run_in_turn(loader: ConfigLoader, config: DictConfig, jobs: Sequence[Job]) -> None:
    """Run each job in its folder, as Hydra's basic launcher does.

    That composes a job once more and copies its configuration five times, which takes as long as training a head.
    """
    variables = OmegaConf.to_container(config.hydra.job.env_set)
    assert isinstance(variables, dict)
    with env_override({str(name): str(value) for name, value in variables.items()}):
        for job in jobs:
            folder = Path(config.hydra.sweep.dir) / job["folder"]
            folder.mkdir(parents=True, exist_ok=True)
            log_into(folder, config)
            begin_job(compose_job(loader, requote(loader, job["overrides"])), folder, job["overrides"])
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)


def log_into(folder: Path, config: DictConfig) -> None:
    """Let the log of a job go to its folder, by what Hydra's configuration says of logs."""
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder.absolute())
    configure_log(config.hydra.job_logging, config.hydra.verbose)
