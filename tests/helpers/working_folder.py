"""Commands of graft given in this process, in a folder of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from root_logging import logging_as_before

from graft.cli.main import main
from graft.records.record import load_record


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The folder is the current one until the block is over; then logging is as before, too."""
    with logging_as_before(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def run(*words: str) -> dict[str, Any]:
    """The record of a run."""
    assert main(list(words)) == 0
    return load_record(Path("outputs", "latest").resolve())
