"""The program as its user meets it: a process, a folder, what it prints and leaves."""

from pathlib import Path

import pytest
from processes import Graft, graft_in


@pytest.fixture
def graft(tmp_path: Path) -> Graft:
    """Run `graft` with arguments in an empty folder."""
    return graft_in(tmp_path)
