"""Long sweeps and parallel ones: the same results, and no more memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import SMALL, Graft, graft_in
from safetensors.torch import load_file

MEBIBYTE = 2**20


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
