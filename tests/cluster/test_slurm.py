"""Sweeps on a Slurm of two nodes on this machine (scripts/slurm): as an array, preempted, and with a node that dies."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from long_jobs import EPOCHS, LONG, PLAIN, epochs_saved, finish, only_sweep, start_graft, wait_until
from outcomes import outcome, record_in
from slurms import Slurm

ON_SLURM = ("hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.mem_gb=2")
ONE_CORE = "hydra.launcher.cpus_per_task=1"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


def start(slurm: Slurm, *words: str, cwd: Path) -> "subprocess.Popen[str]":
    return start_graft("-m", *ON_SLURM, *words, cwd=cwd, env=slurm.environment)


def logs_of(sweep: Path) -> str:
    return "".join(path.read_text() for path in sorted(sweep.glob(".submitit/*/*_log.*")))


def test_a_sweep_is_an_array_and_arrives_where_a_local_one_does(slurm: Slurm, tmp_path: Path) -> None:
    words = ("strategy=scratch,linear_probe,fine_tune", *PLAIN, "trainer.max_epochs=1")
    printed = finish(start(slurm, ONE_CORE, *words, cwd=tmp_path / "slurm"))
    assert "3 of 3" in printed
    assert "sacct" not in printed
    finish(start_graft("-m", *words, cwd=tmp_path / "here", env=slurm.environment))
    there, here = (only_sweep(tmp_path / name) for name in ("slurm", "here"))
    for job in "012":
        assert outcome(there / job) == outcome(here / job)
    [script] = there.glob(".submitit/*/*_submission.sh")
    assert "#SBATCH --array=0-2%3" in script.read_text()
    assert slurm("squeue", "--noheader") == ""


def test_a_preempted_job_is_queued_again_and_goes_on(slurm: Slurm, undisturbed: Path, tmp_path: Path) -> None:
    process = start(slurm, ONE_CORE, "seed=0", *LONG, cwd=tmp_path)
    wait_until(lambda: [*tmp_path.glob("outputs/*/*-sweep/0/transfer/last.ckpt")], process)
    sweep = only_sweep(tmp_path)
    slurm("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    wait_until(lambda: slurm("squeue", "--noheader", "--states=PENDING", "--partition=low"), process)
    assert 1 <= epochs_saved(sweep / "0") < EPOCHS
    [job] = slurm("squeue", "--noheader", "--partition=low", "--format=%i").splitlines()
    slurm("scontrol", "update", f"jobid={job}", "starttime=now")  # Slurm lets it wait two minutes
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
    process = start(slurm, *stays_lost, alone, "seed=0,1", *LONG, cwd=tmp_path)
    wait_until(lambda: len([*tmp_path.glob("outputs/*/*-sweep/[01]/transfer/last.ckpt")]) == 2, process)
    sweep = only_sweep(tmp_path)
    found = re.search(r"_0\|(\w+)$", slurm("squeue", "--noheader", "--format=%i|%N"), re.MULTILINE)
    assert found is not None
    slurm.kill_node(found[1])
    printed = finish(process, code=1)
    assert "missing: job 0 (seed=0): its process ended before it did" in " ".join(printed.split())
    assert "graft: job 0: ended without a word" in printed
    kept = record_in(sweep / "1")
    assert kept["status"] == "done"
    assert 1 <= epochs_saved(sweep / "0") < EPOCHS
    finish(start_graft("resume", str(sweep), cwd=tmp_path, env=slurm.environment))
    assert record_in(sweep / "1") == kept
    assert outcome(sweep / "0") == outcome(undisturbed)
