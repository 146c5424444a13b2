"""Sweeps on a Slurm of two nodes on this machine (scripts/slurm): as an array, preempted, and with a node that dies."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from outcomes import outcome, record_in
from processes import SMALL
from slurms import Slurm

ON_SLURM = ("hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.mem_gb=2")
PLAIN = ("trainer=cpu", "logger=none", *SMALL)
EPOCHS = 40
LONG = (*PLAIN, "strategy=fine_tune", f"trainer.max_epochs={EPOCHS}")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def undisturbed(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(slurm.graft("-m", "seed=0", *LONG, cwd=folder))
    return only_sweep(folder) / "0"


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """What a process printed, which has to end with the exit code."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, out + err
    return out + err


def only_sweep(folder: Path) -> Path:
    [sweep] = folder.glob("outputs/*/*-sweep")
    return sweep


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def epochs_saved(job: Path) -> int:
    """How many epochs of the transfer lie behind in the last checkpoint."""
    import torch

    path = job / "transfer" / "last.ckpt"
    try:
        return len(torch.load(path, weights_only=True)["stage"]["history"])
    except (OSError, EOFError):
        return 0


def logs_of(sweep: Path) -> str:
    return "".join(path.read_text() for path in sorted(sweep.glob(".submitit/*/*_log.*")))


def test_a_sweep_is_an_array_and_arrives_where_a_local_one_does(slurm: Slurm, tmp_path: Path) -> None:
    words = ("strategy=scratch,linear_probe,fine_tune", *PLAIN, "trainer.max_epochs=1")
    printed = finish(slurm.graft("-m", *ON_SLURM, "hydra.launcher.cpus_per_task=1", *words, cwd=tmp_path / "slurm"))
    assert "3 of 3" in printed
    assert "fine_tune" in printed.splitlines()[-3] + printed.splitlines()[-4]
    finish(slurm.graft("-m", *words, cwd=tmp_path / "here"))
    there, here = (only_sweep(tmp_path / name) for name in ("slurm", "here"))
    for job in "012":
        assert outcome(there / job) == outcome(here / job)
    [script] = there.glob(".submitit/*/*_submission.sh")
    assert "#SBATCH --array=0-2%3" in script.read_text()
    assert slurm("squeue", "--noheader") == ""


def test_a_preempted_job_is_queued_again_and_goes_on(slurm: Slurm, undisturbed: Path, tmp_path: Path) -> None:
    process = slurm.graft("-m", *ON_SLURM, "hydra.launcher.cpus_per_task=1", "seed=0", *LONG, cwd=tmp_path)
    wait_until(lambda: [*tmp_path.glob("outputs/*/*-sweep/0/transfer/last.ckpt")])
    sweep = only_sweep(tmp_path)
    wait_until(lambda: epochs_saved(sweep / "0") >= 3)
    slurm("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    wait_until(lambda: "high" in slurm("squeue", "--noheader", "--states=RUNNING", "--format=%P"))
    left_at = epochs_saved(sweep / "0")
    assert 3 <= left_at < EPOCHS
    assert process.poll() is None
    finish(process)
    assert outcome(sweep / "0") == outcome(undisturbed)
    assert logs_of(sweep).count("Starting with") == 2


def test_a_node_that_dies_takes_its_job_alone_and_resume_runs_just_that(
    slurm: Slurm, undisturbed: Path, tmp_path: Path
) -> None:
    stays_lost = (
        "~hydra.launcher.additional_parameters.requeue",
        "+hydra.launcher.additional_parameters.no-requeue=true",
    )
    alone = f"hydra.launcher.cpus_per_task={os.cpu_count()}"  # on its node
    process = slurm.graft("-m", *ON_SLURM, *stays_lost, alone, "seed=0,1", *LONG, cwd=tmp_path)
    wait_until(lambda: len([*tmp_path.glob("outputs/*/*-sweep/[01]/transfer/last.ckpt")]) == 2)
    sweep = only_sweep(tmp_path)
    found = re.search(r"_0\|(\w+)$", slurm("squeue", "--noheader", "--format=%i|%N"), re.MULTILINE)
    assert found is not None
    slurm.kill_node(found[1])
    printed = finish(process, code=1)
    assert "missing job 0 (seed=0): its process ended before it did" in " ".join(printed.split())
    assert "graft: job 0: ended without a word" in printed
    kept = record_in(sweep / "1")
    assert kept["status"] == "done"
    assert 1 <= epochs_saved(sweep / "0") < EPOCHS
    finish(slurm.graft("resume", str(sweep), cwd=tmp_path))
    assert record_in(sweep / "1") == kept
    assert outcome(sweep / "0") == outcome(undisturbed)
