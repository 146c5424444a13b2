"""The launchers behind `hydra/launcher=slurm` and `local`; as Hydra imports them at each start, they import little."""

from collections.abc import Sequence
from typing import Any, ClassVar

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class _SubmititLauncher(Launcher):
    """Submits as the launcher of hydra-submitit-launcher does, and waits for every job, whatever became of the others.

    Args:
        settings: those of hydra-submitit-launcher.
    """

    cluster: ClassVar[str]

    def __init__(self, **settings: Any) -> None:
        self.settings = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the jobs need."""
        from graft.cli.submitted import Submission

        self.submission = Submission(self.cluster, self.settings, hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a job for each list of overrides."""
        return self.submission.run(job_overrides, initial_job_idx)


class LocalLauncher(_SubmititLauncher):
    """Each job a process of its own on this machine."""

    cluster = "local"


class SlurmLauncher(_SubmititLauncher):
    """The jobs as an array of Slurm."""

    cluster = "slurm"
