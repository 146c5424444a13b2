"""Jobs of a sweep through submitit: submitted together, and waited for to the last."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig
from submitit import AutoExecutor, Job, SlurmJob
from submitit.core.utils import UncompletedJobError
from submitit.slurm.slurm import SlurmInfoWatcher

from graft.cli.requeue import InSlurm
from graft.cli.states import interrupted
from graft.errors import LostJobError

SLURM = "slurm"
OF_EXECUTOR = ("submitit_folder", "max_num_timeout")  # settings of the executor, others are of each job
OF_EVERY_CLUSTER = (
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "name",
    "stderr_to_stdout",
)
LOOK_EVERY = 1.0  # seconds between looks for results
ASK_EVERY = 20  # seconds, at most, between questions to Slurm


class QueueWatcher(SlurmInfoWatcher):
    """Knows by Slurm's queue which jobs are over; not every cluster has the accounting that submitit asks."""

    def _make_command(self) -> list[str] | None:
        waited_for = self._registered - self._finished
        return ["squeue", "--noheader", "--array", "--me", "--format=%i|%T"] if waited_for else None

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """The state of every job that is waited for; one that has left the queue is over."""
        text = string if isinstance(string, str) else string.decode()
        queue = dict(line.strip().split("|") for line in text.splitlines())
        return {job: {"State": queue.get(job, "OVER")} for job in self._registered - self._finished}


@dataclass(frozen=True)
class Submission:
    """How jobs are submitted.

    Attributes:
        cluster: "slurm", or "local" for processes of this machine.
        settings: of hydra-submitit-launcher.
        config: with Hydra's part, of the whole sweep.
    """

    cluster: str
    settings: Mapping[str, Any]
    hydra_context: HydraContext
    task: Callable[[DictConfig], Any]
    config: DictConfig

    def run(self, job_overrides: Sequence[Sequence[str]], first_number: int) -> list[JobReturn]:
        """Run a job for each list of overrides, and return what came of each, also where its process was lost."""
        sweep = Path(self.config.hydra.sweep.dir)
        sweep.mkdir(parents=True, exist_ok=True)
        state = Singleton.get_state()
        numbers = range(first_number, first_number + len(job_overrides))
        arguments = [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", state)
            for number, overrides in zip(numbers, job_overrides, strict=True)
        ]
        jobs: list[Job[JobReturn]] = self.executor().map_array(self.job(), *zip(*arguments, strict=True))
        wait_for(jobs, sweep)
        return [outcome(job, overrides) for job, overrides in zip(jobs, job_overrides, strict=True)]

    def job(self) -> Any:
        """What each process calls: hydra-submitit-launcher's own, which composes a job and runs its task."""
        from hydra_plugins.hydra_submitit_launcher import submitit_launcher

        task = InSlurm(self.task) if self.cluster == SLURM else self.task
        job = submitit_launcher.BaseSubmititLauncher()
        job.setup(hydra_context=self.hydra_context, task_function=task, config=self.config)
        return job

    def executor(self) -> AutoExecutor:
        """Submitit's executor with the settings."""
        timeouts = {f"{self.cluster}_max_num_timeout": self.settings.get("max_num_timeout", 0)}
        executor = AutoExecutor(
            folder=self.settings["submitit_folder"],
            cluster=self.cluster,
            **(timeouts if self.cluster == SLURM else {}),
        )
        settings = {name: value for name, value in self.settings.items() if name not in OF_EXECUTOR}
        if self.cluster == SLURM:
            SlurmJob.watcher = QueueWatcher(delay_s=ASK_EVERY)
            settings["setup"] = [*cores(self.settings), *(settings.get("setup") or [])]
        executor.update_parameters(
            **{
                name if name in OF_EVERY_CLUSTER else f"{self.cluster}_{name}": value
                for name, value in settings.items()
            }
        )
        return executor


def cores(settings: Mapping[str, Any]) -> list[str]:
    """Lines of shell that let a job use the cores that were asked for, no more and no fewer.

    Since 22.05 srun gives a step one core unless it is told otherwise.
    """
    if settings.get("cpus_per_task") is None:
        return []
    return [
        "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
        "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}",
    ]


def wait_for(jobs: Sequence[Job[JobReturn]], sweep: Path) -> None:
    """Wait until every job is over; an interrupt of the sweep takes back those that wait, a second one all."""
    try:
        taken_back = False
        while not all(job.done() for job in jobs):
            if interrupted(sweep) and not taken_back:
                take_back(jobs, "--state=PENDING")
                taken_back = True
            time.sleep(LOOK_EVERY)
    except KeyboardInterrupt:
        take_back(jobs)
        raise


def take_back(jobs: Sequence[Job[JobReturn]], *which: str) -> None:
    """Cancel jobs; processes of this machine hear Ctrl-C themselves."""
    ids = [job.job_id for job in jobs if isinstance(job, SlurmJob)]
    if ids:
        subprocess.run(["scancel", *which, *ids], check=False)


def outcome(job: Job[JobReturn], overrides: Sequence[str]) -> JobReturn:
    """What came of a job that is over."""
    try:
        result: JobReturn = job.results()[0]
    except UncompletedJobError:
        error = LostJobError(f"ended without a word (as {job.job_id}); what it printed is in {job.paths.stderr}")
        result = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
        result.return_value = error
    return result
