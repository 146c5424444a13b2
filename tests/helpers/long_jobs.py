"""Jobs of sweeps that take long enough for something to happen to them."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from processes import SMALL

PLAIN = ("trainer=cpu", "logger=none", *SMALL)
EPOCHS = 40
LONG = (*PLAIN, "strategy=fine_tune", f"trainer.max_epochs={EPOCHS}")


def start_graft(*arguments: str, cwd: Path, env: dict[str, str]) -> "subprocess.Popen[str]":
    cwd.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "graft", *arguments]
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """What a process printed, which has to end with the exit code."""
    out, err = process.communicate(timeout=1200)
    assert process.returncode == code, out + err
    return out + err


def only_sweep(folder: Path) -> Path:
    [sweep] = folder.glob("outputs/*/*-sweep")
    return sweep


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    """Wait while the process runs."""
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)


def epochs_saved(job: Path) -> int:
    """How many epochs of the transfer lie behind in the last checkpoint."""
    try:
        return len(torch.load(job / "transfer" / "last.ckpt", weights_only=True)["stage"]["history"])
    except FileNotFoundError:
        return 0
