"""Clusters of this machine, each started once, and what a job arrives at that nothing happens to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from long_jobs import LONG, finish, only_sweep, start_graft
from processes import environment
from slurms import Slurm, running_slurm


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with running_slurm(tmp_path_factory.mktemp("slurm") / "files") as slurm:
        yield slurm


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start_graft("-m", "seed=0", *LONG, cwd=folder, env=environment()))
    return only_sweep(folder) / "0"
