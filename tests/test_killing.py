"""The harness that kills runs: what it compares, when it strikes, and a run that it kills and that ends well."""

import os
import random
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "reliability"


@pytest.fixture
def victims(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return import_module("victims")


def test_times_and_folders_are_no_differences(victims: Any) -> None:
    first = {"metrics": {"accuracy": 0.5}, "cost": {"fit_seconds": 1.0}, "started": "1", "path": "/a/run/x"}
    second = {"metrics": {"accuracy": 0.5}, "cost": {"fit_seconds": 2.0}, "started": "2", "path": "/b/run/x"}
    assert victims.lasting(first, Path("/a")) == victims.lasting(second, Path("/b"))


def test_differences_are_named(victims: Any) -> None:
    found = victims.different({"a": {"b": [1], "c": b"1"}, "d": 1}, {"a": {"b": [2], "c": b"2"}})
    assert list(found) == ["/a/b: [1] -> [2]", "/a/c: b'1' -> b'2'", "/d: only undisturbed"]


def test_what_goes_back_is_lost(victims: Any) -> None:
    before = {"store/a": (1, 0), "transfer": (2, 3), "pretrain": (4, 0)}
    assert list(victims.lost(before, {"transfer": (2, 1)})) == [
        "lost: store/a",
        "went back: transfer from (2, 3) to (2, 1)",
    ]
    assert not list(victims.lost(before, {"store/a": (1, 0), "transfer": (3, 0)}))


def test_half_written_files_are_found(victims: Any, tmp_path: Path) -> None:
    for name in (f".last.ckpt.{32 * '0'}", ".best.ckpt.part", "last.ckpt", ".hydra"):
        (tmp_path / name).touch()
    assert sorted(path.name for path in victims.left_over(tmp_path)) == [".best.ckpt.part", f".last.ckpt.{32 * '0'}"]


def test_a_file_that_is_read_is_no_change(victims: Any) -> None:
    changes_files = import_module("graft_processes").changes_files
    assert not changes_files("open", ("a", "r", os.O_RDONLY))
    assert changes_files("open", ("a", "w", os.O_WRONLY | os.O_CREAT))
    assert changes_files("os.rename", ("a", "b", -1, -1))


@pytest.mark.filterwarnings("ignore:.*fork")  # threads of the tests' own are idle meanwhile
def test_a_run_that_is_killed_ends_as_the_undisturbed_one(
    victims: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = import_module("graft_processes")
    tiny = ("strategy=scratch", "baselines=[]", "pretrain.max_epochs=1", "trainer.max_epochs=2")
    monkeypatch.setitem(victims.CASES, "tiny", tiny)
    case = victims.Case("tiny", tmp_path, processes.Graft())
    middle = processes.Moment(cpu_seconds=0.7 * case.undisturbed[0].cpu_seconds)
    monkeypatch.setattr(victims, "chosen_moment", lambda *_: middle)
    for number, how in enumerate((signal.SIGKILL, signal.SIGTERM)):
        found = victims.trial(case, number, random.Random(0), 1, how)
        assert [len(found.kills), found.differences] == [1, []], how
