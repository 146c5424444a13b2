"""Long sweeps and parallel ones: the same results, and no more memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import SMALL, Graft
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


@pytest.mark.slow
def test_jobs_at_the_same_time_end_as_one_after_another(graft: Graft, tmp_path: Path) -> None:
    launchers = {"serial": (), "together": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")}
    for name, launcher in launchers.items():
        (tmp_path / name).mkdir()
        done = graft("-m", *launcher, "strategy=scratch,linear_probe", "seed=0,1", *SMALL, cwd=tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert "linear_probe  2" in done.stdout  # one table at the end
        assert "GPU available" not in done.stdout + done.stderr
    for one, other in zip(records(tmp_path / "serial", 4), records(tmp_path / "together", 4), strict=True):
        assert one["metrics"] == other["metrics"]
        assert one["fingerprints"] == other["fingerprints"]
        assert all(torch.equal(tensor, other["weights"][name]) for name, tensor in one["weights"].items())
    assert len(list(tmp_path.glob("together/outputs/store/backbone/*/*"))) == 2  # one a seed, whoever came first


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
