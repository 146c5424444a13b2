"""Shared fixtures: where the development data lies, and how a test says it needs it."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from omegaconf import DictConfig, read_write
from root_logging import logging_as_before

from graft.cli.compose import hydra_application
from graft.cli.loader import RememberingLoader

CHECKOUT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("GRAFT_SHARED", CHECKOUT.parent / "shared"))
MEMORY = ("_composed", "_options", "_plain")  # of a RememberingLoader
LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cluster", action="store_true", help="run the tests on clusters of this machine, and no others")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_out(config, items)
    if SHARED.is_dir():
        return
    skip = pytest.mark.skip(reason=f"no development data at {SHARED}")
    for item in items:
        if "shared" in item.keywords:
            item.add_marker(skip)


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests on clusters with `--cluster`, else the others."""
    wanted = config.getoption("cluster")
    left_out = [item for item in items if bool(item.get_closest_marker("cluster")) != wanted]
    if left_out:
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)
        if not wanted:
            config.stash[LEFT_OUT] = len(left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if num := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"left out: {num} tests on Slurm and Ray, which scripts/test --cluster runs")


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="session")
def conf() -> Path:
    return CHECKOUT / "conf"


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    """What composes configurations, as the command line does."""
    with hydra_application() as hydra:
        yield hydra.config_loader


@pytest.fixture(scope="session", autouse=True)
def _composed_once() -> Iterator[None]:
    """graft's own configuration does not change meanwhile: what one test composed of it, the others find."""
    remembered: dict[str, Any] = {}
    make, lay_over = RememberingLoader.__init__, RememberingLoader._with_values

    def make_remembering(loader: RememberingLoader, path: ConfigSearchPath) -> None:
        make(loader, path)
        if not any(element.provider == "command-line" for element in path.get_path()):
            vars(loader).update({name: remembered.setdefault(name, vars(loader)[name]) for name in MEMORY})

    def lay_over_here(loader: RememberingLoader, config: DictConfig, *overrides: Any) -> DictConfig:
        with read_write(config.hydra.runtime):
            config.hydra.runtime.cwd = os.getcwd()
        return lay_over(loader, config, *overrides)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RememberingLoader, "__init__", make_remembering)
        patch.setattr(RememberingLoader, "_with_values", lay_over_here)
        yield


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The logging that a command sets up ends with the test."""
    with logging_as_before():
        yield


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory for `main`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    return tmp_path
