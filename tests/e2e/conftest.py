"""The program as its user meets it: a process, a folder, what it prints and leaves."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import Graft, environment


@pytest.fixture
def graft(tmp_path: Path) -> Graft:
    """Run `graft` with arguments in an empty folder."""

    def run(*arguments: str, cwd: Path = tmp_path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "graft", *arguments]
        return subprocess.run(
            command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
        )

    return run
