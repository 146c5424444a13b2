"""The store: whole entries or none, the work done once, damage found."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from graft.records.files import LockHeldError, file_lock
from graft.records.store import Store

KEY = "ab" * 32


def fill(entry: Path) -> None:
    (entry / "weights.bin").write_bytes(b"weights")


def test_what_was_made_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.entry("backbone", KEY) is None
    made = store.get_or_make("backbone", KEY, fill)
    assert store.entry("backbone", KEY) == made
    assert (made / "weights.bin").read_bytes() == b"weights"
    assert store.entry("baseline", KEY) is None


def test_what_exists_is_not_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.get_or_make("backbone", KEY, fill)

    def must_not_run(entry: Path) -> None:
        raise AssertionError("made twice")

    store.get_or_make("backbone", KEY, must_not_run)


@pytest.mark.parametrize("damage", ["change", "truncate", "remove", "manifest"])
def test_a_damaged_entry_is_set_aside_and_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    file = store.get_or_make("backbone", KEY, fill) / "weights.bin"
    if damage == "change":
        file.write_bytes(b"weightz")
    elif damage == "truncate":
        file.write_bytes(b"")
    elif damage == "remove":
        file.unlink()
    else:
        (file.parent / "manifest.json").write_text("{")
    assert store.entry("backbone", KEY) is None
    assert "damaged" in caplog.text
    assert len(list((tmp_path / "damaged").iterdir())) == 1
    assert (store.get_or_make("backbone", KEY, fill) / "weights.bin").read_bytes() == b"weights"


def test_a_failed_fill_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(entry: Path) -> None:
        fill(entry)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        store.get_or_make("backbone", KEY, fail)
    assert list((tmp_path / "backbone").rglob("weights.bin")) == []
    assert store.entry("backbone", KEY) is None


def count_and_fill(entry: Path) -> None:
    with (entry.parents[2] / "count").open("a") as file:
        file.write("x")
    time.sleep(0.2)
    fill(entry)


def ask(root: Path) -> None:
    Store(root).get_or_make("backbone", KEY, count_and_fill)


def test_processes_that_ask_at_once_do_the_work_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=ask, args=(tmp_path,)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert (tmp_path / "count").read_text() == "x"


def hang(root: Path) -> None:
    def fill_for_ever(entry: Path) -> None:
        fill(entry)
        (root / "hanging").touch()
        time.sleep(60)

    Store(root).get_or_make("backbone", KEY, fill_for_ever)


def test_a_killed_maker_leaves_no_entry_and_no_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=hang, args=(tmp_path,))
    process.start()
    while not (tmp_path / "hanging").exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert Store(tmp_path).entry("backbone", KEY) is None
    assert Store(tmp_path).get_or_make("backbone", KEY, fill).is_dir()


def test_a_lock_that_is_held_is_said_to_be(tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock"), pytest.raises(LockHeldError), file_lock(tmp_path / "lock", wait=False):
        pass
    with file_lock(tmp_path / "lock", wait=False):
        pass
