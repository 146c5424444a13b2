"""Clusters of this machine, each started once."""

from collections.abc import Iterator

import pytest
from slurms import Slurm, running_slurm


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with running_slurm(tmp_path_factory.mktemp("slurm") / "files") as slurm:
        yield slurm
