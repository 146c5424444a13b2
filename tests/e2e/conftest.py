"""The program as its user meets it: a process, a folder, what it prints and leaves."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Small enough to end in seconds: few glyphs, few epochs.
SMALL = ("source.num_samples=400", "source.num_test_samples=100", "pretrain.max_epochs=1", "trainer.max_epochs=2")

Graft = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONWARNINGS": "default"}


@pytest.fixture
def graft(tmp_path: Path) -> Graft:
    """Run `graft` with arguments in an empty folder."""

    def run(*arguments: str, cwd: Path = tmp_path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "graft", *arguments]
        return subprocess.run(
            command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
        )

    return run
