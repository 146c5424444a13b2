"""The launcher behind `hydra/launcher=gpus`; Hydra imports it at each start, so it imports next to nothing itself."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GpuLauncher(Launcher):
    """The joblib launcher with as many workers as there are GPUs, each of which sees one.

    Args:
        devices: names or numbers of GPUs; None: all that are visible.
    """

    def __init__(self, devices: Sequence[int | str] | None) -> None:
        self.devices = devices

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Find the GPUs and set up joblib's launcher for them."""
        from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

        from graft.cli.gpus import OnOneGpu, find_devices

        devices = find_devices(self.devices)
        self.pool: Any = JoblibLauncher(n_jobs=len(devices), pre_dispatch="n_jobs", batch_size=1)
        task = OnOneGpu(task_function, tuple(devices))
        self.pool.setup(hydra_context=hydra_context, task_function=task, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a job for each list of overrides, one at a time on each GPU."""
        results: Sequence[JobReturn] = self.pool.launch(job_overrides, initial_job_idx)
        return results
