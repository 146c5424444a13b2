"""Launchers: one job for each GPU, processes through submitit, and what is said where one cannot be used."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from joblib import Parallel, delayed
from processes import SMALL, Graft, graft_in

from graft.cli import launchers
from graft.cli.gpus import GPU_LAUNCHER, OnOneGpu, find_devices
from graft.cli.launchers import jobs_at_once
from graft.cli.main import main
from graft.errors import UserError

DEVICES = ("a", "b", "c")


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that no other process of the user's has."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def note_device(folder: Path, number: int) -> tuple[str, int]:
    """A job that fails where another one is on its device; returns its device and process."""
    import os
    import time

    device = os.environ["CUDA_VISIBLE_DEVICES"]
    held = folder / f"{device}.{number}"
    assert not list(folder.glob(f"{device}.*"))
    held.touch()
    time.sleep(0.05)
    held.unlink()
    return device, os.getpid()


def test_each_job_sees_one_gpu_that_no_other_running_job_has(locks: Path) -> None:
    task, held = OnOneGpu(note_device, DEVICES), locks / "held"
    held.mkdir()
    jobs = Parallel(n_jobs=len(DEVICES), batch_size=1, pre_dispatch="n_jobs")(
        delayed(task)(held, number) for number in range(12)
    )
    assert {device for device, _ in jobs} <= set(DEVICES)
    assert len(set(jobs)) == len({device for device, _ in jobs})  # a process stays on its device


TAKE = """
import sys
from graft.cli.gpus import take_one
print(take_one(sys.argv[1:]), flush=True)
sys.stdin.read()
"""


def taker(*devices: str) -> "subprocess.Popen[str]":
    """A process that takes a device until it is killed."""
    command = [sys.executable, "-c", TAKE, *devices]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_gpu_is_free_again_when_its_process_is_killed(locks: Path) -> None:
    processes = [taker("a", "b")]
    try:
        assert line_of(processes[0]) == "a"
        processes.append(taker("a", "b"))
        assert line_of(processes[1]) == "b"
        processes.append(taker("a", "b"))  # waits
        processes[0].kill()
        assert line_of(processes[2]) == "a"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_gpus_are_those_given_or_visible_or_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, GPU-4f,3")
    assert find_devices(None) == ["1", "GPU-4f", "3"]
    assert find_devices([0, 2]) == ["0", "2"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    listing = tmp_path / "nvidia-smi"
    listing.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    listing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_devices(None) == ["0", "1"]
    with pytest.raises(UserError, match="a GPU is named twice in 0, 0"):
        find_devices([0, 0])


@pytest.mark.parametrize(
    ("launcher", "error"),
    [
        ("gpus", "hydra/launcher=gpus: found no GPU; expected one in CUDA_VISIBLE_DEVICES or nvidia-smi"),
        ("slurm", "hydra/launcher=slurm: found no srun; expected a machine that submits to Slurm"),
        ("ray", "hydra/launcher=ray: is not installed; pip install 'graft[ray]' brings it"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_written(
    launcher: str,
    error: str,
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", "")
    found = launchers.is_installed
    monkeypatch.setattr(launchers, "is_installed", lambda module: "ray" not in module and found(module))
    assert main(["-m", f"hydra/launcher={launcher}", "seed=0,1"]) == 1
    assert capsys.readouterr().err == f"graft: {error}\n"
    assert not list(empty_folder.iterdir())


@pytest.mark.parametrize(
    ("launcher", "extra"),
    [("hydra/launcher=slurm", "slurm"), ("hydra/launcher=gpus", "joblib"), ("hydra/sweeper=optuna", "optuna")],
)
def test_what_is_not_installed_names_the_extra_that_brings_it(
    launcher: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launchers, "is_installed", lambda module: False)
    assert main(["-m", launcher, "seed=0,1"]) == 1
    assert f"{launcher}: is not installed; pip install 'graft[{extra}]' brings it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ({"_target_": GPU_LAUNCHER, "devices": ["0", "1"]}, 2),
        ({"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"}, 5),
        ({"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"}, 1),
        ({"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", "n_jobs": 3}, 3),
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 1),
    ],
)
def test_jobs_at_once_by_launcher(launcher: dict[str, Any], expected: int) -> None:
    assert jobs_at_once(launcher, num_jobs=5) == expected


@pytest.fixture
def graft(tmp_path: Path) -> Graft:
    return graft_in(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [("hydra/launcher=local",), ("hydra/launcher=gpus", "hydra.launcher.devices=[x]")])
def test_a_sweep_ends_with_the_same_table(launcher: tuple[str, ...], graft: Graft, tmp_path: Path, locks: Path) -> None:
    words = ("strategy=scratch,linear_probe", "trainer=cpu", *SMALL, "trainer.max_epochs=1", "logger=none")
    done = graft("-m", *launcher, *words)
    assert done.returncode == 0, done.stderr
    assert "linear_probe  1" in done.stdout
    [sweep] = tmp_path.glob("outputs/*/*-sweep")
    assert json.loads((sweep / "sweep.json").read_text())["status"] == "done"
