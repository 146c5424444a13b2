"""The program as a process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Small enough to end in seconds: few glyphs, few epochs.
SMALL = ("source.num_samples=400", "source.num_test_samples=100", "pretrain.max_epochs=1", "trainer.max_epochs=2")

Graft = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONWARNINGS": "default"}


def graft_in(folder: Path) -> Graft:
    """What runs `graft` with arguments in a folder."""

    def run(*arguments: str, cwd: Path = folder, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "graft", *arguments]
        return subprocess.run(
            command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
        )

    return run
