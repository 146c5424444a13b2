"""A program that torchrun or srun starts once for each device: one run, and the weights of one process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcomes import record_in
from processes import environment
from safetensors.numpy import load_file
from slurms import Slurm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# The network has no norm layers, whose statistics each process would take of its own share, and two steps of two shares
# of 20 images hold what two steps of 40 do.
WORDS = ("logger=none", "source=none", "strategy=scratch", "baselines=[]", "trainer.max_epochs=3")
DATA = ("target.labels_per_class=8", "target.val_fraction=0")


def arrived_at(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record and the weights of the only run in a folder."""
    [run] = folder.glob("outputs/digits/*")
    return record_in(run), load_file(run / "weights" / "network.safetensors")


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("one")
    start([], folder, "trainer=cpu", "target.batch_size=40")
    return arrived_at(folder)


def start(prefix: list[str], folder: Path, *words: str, env: dict[str, str] | None = None) -> None:
    command = [*(prefix or [sys.executable]), "-m", "graft", *WORDS, *DATA, *words]
    done = subprocess.run(
        command, cwd=folder, env=env or environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def assert_same(folder: Path, by_one: Any) -> None:
    record, weights = arrived_at(folder)
    expected_record, expected = by_one
    assert record["status"] == "done"
    assert [row["step"] for row in record["history"]] == [row["step"] for row in expected_record["history"]]
    for name, tensor in expected.items():
        np.testing.assert_allclose(weights[name], tensor, rtol=1e-4, atol=1e-6, err_msg=name)


def test_torchrun(tmp_path: Path, by_one: Any) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    start(torchrun, tmp_path, "trainer=ddp_cpu", "target.batch_size=20")
    assert_same(tmp_path, by_one)


def test_srun_on_two_nodes(slurm: Slurm, tmp_path: Path, by_one: Any) -> None:
    # Nodes of this machine have names that no resolver knows.
    env = slurm.environment | {"MASTER_ADDR": "127.0.0.1"}
    srun = ["srun", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit", sys.executable]
    start(srun, tmp_path, "trainer=ddp_cpu", "target.batch_size=20", env=env)
    assert_same(tmp_path, by_one)


def test_an_error_ends_all_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "graft"]
    done = subprocess.run(
        [*command, "strategy=nonsense"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("nonsense") == 1
    assert not os.listdir(tmp_path)
