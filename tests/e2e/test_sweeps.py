"""Long sweeps and parallel ones: the same results, and no more memory."""

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import write_arrays
from processes import SMALL, Graft, environment, graft_in
from safetensors.torch import load_file

from graft.cli.states import state_of

MEBIBYTE = 2**20
NAMES = ("a", "b", "c", "d", "e", "f")  # of data sets
TWELVE = (
    "-m",
    "sweep.name=twelve",
    "source=none",
    "strategy=scratch",
    "baselines=[]",
    "logger=none",
    "target=arrays",
    "target.path=" + ",".join(f"{name}.npz" for name in NAMES),
    "seed=0,1",
    "trainer.max_epochs=1",
)


def records(folder: Path, num_jobs: int) -> list[dict[str, Any]]:
    """The records of a sweep that is done, with the weights of each job."""
    [sweep] = folder.glob("outputs/*/*-sweep")
    assert json.loads((sweep / "sweep.json").read_text())["status"] == "done"
    jobs = [sweep / str(job) for job in range(num_jobs)]
    return [
        json.loads((job / "record.json").read_text()) | {"weights": load_file(job / "weights" / "network.safetensors")}
        for job in jobs
    ]


def swept(folder: Path, *words: str) -> str:
    """What a sweep of two strategies and two seeds in the folder prints."""
    done = graft_in(folder)("-m", *words, "strategy=scratch,linear_probe", "seed=0,1", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "GPU available" not in done.stdout + done.stderr
    return done.stdout


def backbones(folder: Path) -> list[Path]:
    return list(folder.glob("outputs/store/backbone/*/*/manifest.json"))


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a sweep, one job after another, and what it printed."""
    folder = tmp_path_factory.mktemp("serial")
    return folder, swept(folder)


def test_a_sweep_shares_pretraining_and_leaves_a_table(serial: tuple[Path, str]) -> None:
    folder, printed = serial
    assert len(records(folder, 4)) == len(list(folder.glob("outputs/*/*/*/record.json")))
    [table] = folder.glob("outputs/*/*-sweep/results.csv")
    assert len(table.read_text().splitlines()) == 5
    assert "±" in printed
    assert "linear_probe  2" in printed
    assert len(backbones(folder)) == 2


@pytest.mark.slow
def test_jobs_at_the_same_time_end_as_one_after_another(tmp_path: Path, serial: tuple[Path, str]) -> None:
    printed = swept(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert "linear_probe  2" in printed  # one table at the end
    for one, other in zip(records(serial[0], 4), records(tmp_path, 4), strict=True):
        assert one["metrics"] == other["metrics"]
        assert one["fingerprints"] == other["fingerprints"]
        assert all(torch.equal(tensor, other["weights"][name]) for name, tensor in one["weights"].items())
    assert len(backbones(tmp_path)) == 2  # one a seed, whoever came first


@pytest.mark.slow
def test_failures_of_parallel_jobs_are_collected(graft: Graft, tmp_path: Path) -> None:
    words = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "target.labels_per_class=5,5000", *SMALL)
    done = graft(*words, "baselines=[]")
    assert done.returncode == 1
    assert "job 1 failed" in done.stdout
    assert "runs the 1 of 2 that are not done" in done.stdout


@pytest.mark.slow
def test_memory_stays_flat_over_fifty_jobs(graft: Graft, tmp_path: Path) -> None:
    seeds = ",".join(map(str, range(50)))
    done = graft("-m", f"seed={seeds}", *SMALL, "trainer.max_epochs=1", "strategy=scratch", "baselines=[]")
    assert done.returncode == 0, done.stderr
    peaks = [record["cost"]["peak_memory_bytes"] for record in records(tmp_path, 50)]
    assert peaks[-1] - peaks[9] < 40 * MEBIBYTE  # Hydra keeps each job's configuration: 1 MiB or less


@pytest.mark.slow
def test_a_sweep_that_was_killed_is_completed_to_what_it_would_have_been(tmp_path: Path) -> None:
    disturbed, calm = tmp_path / "disturbed", tmp_path / "calm"
    for folder in (disturbed, calm):
        folder.mkdir()
        for name in NAMES:
            write_arrays(folder / f"{name}.npz", num_per_class=8)
    late = disturbed / f"{NAMES[1]}.npz"
    held_back = late.rename(disturbed / "held_back")
    process = subprocess.Popen(
        [sys.executable, "-m", "graft", *TWELVE], cwd=disturbed, env=environment(), stdout=subprocess.DEVNULL
    )
    sweep = disturbed / "outputs" / "sweeps" / "twelve"
    while sum(state_of(sweep / str(job)) in ("done", "failed") for job in range(12)) < 6:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    ended = {job for job in range(12) if state_of(sweep / str(job)) == "done"}
    before = {job: (sweep / str(job) / "record.json").read_bytes() for job in ended}
    assert 4 <= len(ended) < 11
    assert [state_of(sweep / str(job)) for job in (2, 3)] == ["failed", "failed"]

    held_back.rename(late)
    resumed = graft_in(disturbed)("resume", str(sweep))
    assert resumed.returncode == 0, resumed.stderr
    assert f"{len(ended)} of 12 jobs are done already" in resumed.stdout
    assert before == {job: (sweep / str(job) / "record.json").read_bytes() for job in ended}
    assert graft_in(calm)(*TWELVE).returncode == 0
    tables = [results(folder / "outputs" / "sweeps" / "twelve") for folder in (disturbed, calm)]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 12


def results(sweep: Path) -> list[dict[str, str]]:
    """The table of a sweep without what was measured of time and memory."""
    with (sweep / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if not re.search("second|memory|speed", name)} for row in rows]


@pytest.mark.slow
def test_two_processes_train_a_job_of_one_sweep(graft: Graft, tmp_path: Path) -> None:
    words = ("source=none", "strategy=scratch", "baselines=[]", "logger=[]", "trainer.max_epochs=1")
    done = graft("-m", "seed=0", "trainer=ddp_cpu", *words)
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path, 1)) == len(list(tmp_path.glob("outputs/*/*/*/record.json")))
