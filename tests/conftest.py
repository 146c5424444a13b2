"""Shared fixtures: where the development data lies, and how a test says it needs it."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.config_loader import ConfigLoader

from graft.cli.compose import hydra_application

CHECKOUT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("GRAFT_SHARED", CHECKOUT.parent / "shared"))
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


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory for `main`; the logging that a command sets up ends with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield tmp_path
    for handler in set(root.handlers) - set(before):
        handler.close()
    root.handlers[:] = before
    root.setLevel(level)
