"""The store: whole entries or none, the work done once, damage found."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from graft.records.files import LockHeldError, file_lock
from graft.records.store import Store

KEY = "ab" * 32


def fill(entry: Path) -> None:
    (entry / "weights.bin").write_bytes(b"weights")


def must_not_run(entry: Path) -> None:
    raise AssertionError("made twice")


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

    store.get_or_make("backbone", KEY, must_not_run)


@pytest.mark.parametrize("damage", ["change", "truncate", "remove", "manifest", "list"])
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
        (file.parent / "manifest.json").write_text("{" if damage == "manifest" else "[]")
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


def test_a_child_forked_while_the_lock_is_held_does_not_hold_it(tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock"):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with file_lock(tmp_path / "lock", wait=False):
            pass
    finally:
        child.kill()
        child.join()


def hold_with_a_worker(root: Path) -> None:
    with file_lock(root / "lock"):
        worker = os.fork()
        if worker == 0:
            (root / "worker").write_text(str(os.getpid()))
            os.replace(root / "worker", root / "ready")
        time.sleep(60)


def test_a_killed_holder_frees_the_lock_though_its_workers_live_on(tmp_path: Path) -> None:
    holder = multiprocessing.get_context("fork").Process(target=hold_with_a_worker, args=(tmp_path,))
    holder.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    worker = int((tmp_path / "ready").read_text())
    try:
        holder.kill()
        holder.join()
        os.kill(worker, 0)  # still there
        with file_lock(tmp_path / "lock", wait=False):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_waiting_process_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    store = Store(tmp_path)
    entered, leave = threading.Event(), threading.Event()

    def slowly(entry: Path) -> None:
        entered.set()
        leave.wait(10)
        fill(entry)

    maker = threading.Thread(target=store.get_or_make, args=("backbone", KEY, slowly))
    maker.start()
    entered.wait(10)
    other = Store(tmp_path)
    waiter = threading.Thread(target=other.get_or_make, args=("backbone", KEY, must_not_run))
    waiter.start()
    while "waiting" not in caplog.text:
        assert waiter.is_alive()
        time.sleep(0.01)
    leave.set()
    maker.join(), waiter.join()
    assert store.entry("backbone", KEY) is not None
    assert store.made("backbone", KEY)
    assert not other.made("backbone", KEY)


def test_several_that_find_damage_set_it_aside_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.get_or_make("backbone", KEY, fill) / "weights.bin").write_bytes(b"weightz")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=ask, args=(tmp_path,)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    assert (tmp_path / "count").read_text() == "x"
    assert len(list((tmp_path / "damaged").iterdir())) == 1


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
    entry = Store(tmp_path).get_or_make("backbone", KEY, fill)
    assert [path.name for path in entry.parent.iterdir()] == [KEY]


def test_a_lock_that_is_held_is_said_to_be(tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock"), pytest.raises(LockHeldError), file_lock(tmp_path / "lock", wait=False):
        pass
    with file_lock(tmp_path / "lock", wait=False):
        pass


def keys(store: Store) -> list[str]:
    return sorted(path.parent.name[:2] for path in store.root.glob("features/*/*/manifest.json"))


def kept(store: Store, name: str, used: int) -> None:
    """An entry of some 1,100 bytes, last used at a time of its own."""
    entry = store.get_or_make(
        "features", name * 32, lambda folder: (folder / "x.bin").write_bytes(b"x" * 1000) and None
    )
    os.utime(entry / "manifest.json", (used, used))


def test_room_is_made_by_what_is_longest_unused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for used, name in enumerate(("aa", "bb", "cc")):
        kept(store, name, used)
    store.get_or_make("features", "aa" * 32, must_not_run)  # used again just now
    store.get_or_make("backbone", KEY, fill)
    store.make_room("features", limit=10_000, needed=1000)
    assert keys(store) == ["aa", "bb", "cc"]
    store.make_room("features", limit=3000, needed=500)
    assert keys(store) == ["aa", "cc"]
    store.make_room("features", limit=1000, needed=1000)
    assert keys(store) == []
    assert store.entry("backbone", KEY) is not None


def test_what_is_in_use_is_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept(store, "aa", 0)
    kept(store, "bb", 1)
    with store.held("features", "aa" * 32, must_not_run) as entry:
        store.make_room("features", limit=0, needed=0)
        assert entry.is_dir()
    assert keys(store) == ["aa"]
