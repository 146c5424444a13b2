"""The launcher behind `hydra/launcher=ray`; Hydra imports it at each start, so it imports next to nothing itself."""

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RayLauncher(Launcher):
    """Each job a task of Ray, on a cluster that is there or on one of this machine alone; every one is waited for.

    hydra-ray-launcher cannot join a cluster, to which it would tell the size of its object store, and drops the other
    jobs where one is lost.

    Args:
        ray: `init` and `remote`, the arguments of `ray.init` and of `ray.remote`.
    """

    def __init__(self, ray: DictConfig) -> None:
        self.ray = ray

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the jobs need."""
        self.what = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a job for each list of overrides."""
        from graft.cli.on_ray import run

        return run(self.ray, self.what, job_overrides, initial_job_idx)
