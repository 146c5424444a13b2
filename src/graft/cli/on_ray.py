"""Jobs of a sweep on a Ray cluster: given to it together, and waited for to the last."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import ray
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from ray.exceptions import RayError, RayTaskError

from graft.errors import LostJobError

What = tuple[HydraContext, Callable[[DictConfig], Any], DictConfig]  # the task, and the sweep's configuration


def run(settings: DictConfig, what: What, job_overrides: Sequence[Sequence[str]], first_number: int) -> list[JobReturn]:
    """Run a job for each list of overrides, and return what came of each, also where its process was lost."""
    if not ray.is_initialized():
        ray.init(**arguments(settings.init))
    remote = ray.remote(**arguments(settings.remote))(run_there)
    jobs = [
        remote.remote(os.getcwd(), what, job_config(what, overrides, number), Singleton.get_state())
        for number, overrides in enumerate(job_overrides, start=first_number)
    ]
    return [outcome(job, overrides) for job, overrides in zip(jobs, job_overrides, strict=True)]


def arguments(settings: DictConfig) -> dict[str, Any]:
    """Settings as the arguments of a function."""
    plain: Any = OmegaConf.to_container(settings, resolve=True)
    return dict(plain)


def job_config(what: What, overrides: Sequence[str], number: int) -> DictConfig:
    """The configuration of a job."""
    context, _, config = what
    composed = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id = f"job_id_for_{number}"
        composed.hydra.job.num = number
    return composed


def run_there(folder: str, what: What, config: DictConfig, state: Any) -> JobReturn:
    """Run a job in a process of the cluster, where paths mean what they mean to the process that launches it."""
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    HydraConfig.instance().set_config(config)
    context, task, _ = what
    return run_job(
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )


def outcome(job: Any, overrides: Sequence[str]) -> JobReturn:
    """What came of a job, once it is over."""
    lost = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    try:
        result: JobReturn = ray.get(job)
        return result
    except RayTaskError as error:
        lost.return_value = error.cause
    except RayError as error:
        first = str(error).strip().partition("\n")[0]
        lost.return_value = LostJobError(f"{type(error).__name__}: {first}")
    return lost
