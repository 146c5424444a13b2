"""A job of a sweep within a job of Slurm that may end early: it is queued again, and goes on later where it was."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from graft.preemption import EXIT_CODE

TIME_IS_UP = signal.SIGUSR2  # submitit lets Slurm send it some time before the job's time is up


@dataclass(frozen=True)
class InSlurm:
    """A task that ends when Slurm asks it to, and whose job is then queued again.

    Slurm sends SIGTERM to a job whose place another one needs, and `TIME_IS_UP`. The latter is passed on as the former,
    so that a run that saves itself before it ends has one signal to listen to.
    """

    task: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """Run the task.

        Raises:
            SystemExit: the job is queued again.
            submitit.core.utils.UncompletedJobError: its time was up once too often.
        """
        count_and_requeue: Any = signal.getsignal(TIME_IS_UP)  # submitit's
        time_is_up: list[int] = []

        def pass_on(number: int, frame: FrameType | None) -> None:
            if not time_is_up:
                time_is_up.append(number)
                os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(TIME_IS_UP, pass_on)
        signal.signal(signal.SIGTERM, interrupt)
        try:
            return self.task(*arguments)
        except KeyboardInterrupt:
            for number in (TIME_IS_UP, signal.SIGTERM):  # some send them again
                signal.signal(number, signal.SIG_IGN)
        if time_is_up:
            count_and_requeue(TIME_IS_UP, None)
        return requeue()


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """End as with a Ctrl-C, which leaves a run as it was saved last."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def requeue() -> NoReturn:
    """End, and let Slurm queue the job again, unless it is about to end it or to do so itself.

    Raises:
        SystemExit: always.
    """
    job = own_job()
    state = subprocess.run(
        ["squeue", "--noheader", f"--jobs={job}", "--format=%T"], capture_output=True, text=True, check=False
    )
    if state.stdout.strip() == "RUNNING":  # cancelled ones are COMPLETING
        subprocess.run(["scontrol", "requeue", job], check=False)
    sys.exit(EXIT_CODE)


def own_job() -> str:
    """The name of this job. The number alone of a job of an array may be that of the whole array too."""
    variables = os.environ
    if "SLURM_ARRAY_JOB_ID" in variables:
        return f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"
    return variables["SLURM_JOB_ID"]
