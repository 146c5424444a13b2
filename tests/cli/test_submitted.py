"""Jobs through submitit, without a cluster: what is asked of Slurm, and what is done when it asks a job to end."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graft.cli.requeue import EXIT_CODE, TIME_IS_UP, InSlurm
from graft.cli.submitted import QueueWatcher, cores
from graft.data.threaded import num_cores


def test_jobs_that_left_the_queue_are_over() -> None:
    watcher = QueueWatcher()
    for job in ("7_0", "7_1", "8"):
        watcher.register_job(job)
    watcher._info_dict = watcher.read_info(b"7_0|RUNNING\n9|PENDING\n8|COMPLETING\n")
    assert [watcher.is_done(job, mode="cache") for job in ("7_0", "7_1", "8")] == [False, True, False]


def test_jobs_compute_with_the_cores_that_they_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cores({"cpus_per_task": None}) == []
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in cores({"cpus_per_task": 4})
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert num_cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "10000")
    assert num_cores() == len(os.sched_getaffinity(0))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a made-up scontrol writes what it is asked; a made-up squeue reads the state of the job beside it."""
    for name, script in (("scontrol", f'echo "$@" >> {tmp_path}/asked'), ("squeue", f"cat {tmp_path}/state")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "asked").touch()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name, value in {"JOB_ID": "12", "ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, TIME_IS_UP)]
    yield tmp_path / "asked"
    for number, handler in before:
        signal.signal(number, handler)


def hear(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)


@pytest.mark.parametrize(
    ("state", "requests"), [("RUNNING", "requeue 12_1\n"), ("COMPLETING", "")], ids=["preempted", "cancelled"]
)
def test_a_job_that_is_asked_to_end_is_queued_again_unless_it_ends_anyway(
    state: str, requests: str, asked: Path
) -> None:
    asked.with_name("state").write_text(f"{state}\n")
    with pytest.raises(SystemExit) as ended:
        InSlurm(hear)(signal.SIGTERM)
    assert ended.value.code == EXIT_CODE
    assert asked.read_text() == requests


def test_a_job_whose_time_is_up_is_left_to_submitit_which_counts(asked: Path) -> None:
    def count_and_requeue(number: int, frame: object) -> None:
        raise SystemExit(-1)

    signal.signal(TIME_IS_UP, count_and_requeue)
    with pytest.raises(SystemExit) as ended:
        InSlurm(hear)(TIME_IS_UP)
    assert ended.value.code == -1
    assert asked.read_text() == ""


def test_a_task_that_ends_by_itself_returns(asked: Path) -> None:
    assert InSlurm(max)(1, 2) == 2
    assert asked.read_text() == ""
