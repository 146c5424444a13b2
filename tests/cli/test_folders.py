import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from graft.cli.folders import claimed, is_interrupted_run, locked, new_folder, point_latest


def leave_record(folder: Path, status: str) -> None:
    (folder / "record.json").write_text(json.dumps({"status": status}))


def claim(stack: ExitStack, parent: Path, identity: str = "abcd1234") -> Path:
    return stack.enter_context(claimed(parent, identity, "", is_interrupted_run))


def test_twenty_launches_at_once_get_twenty_folders(tmp_path: Path) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(20) as pool:
        folders = set(pool.map(lambda _: claim(stack, tmp_path / "a"), range(20)))
    assert len(folders) == 20
    assert all(folder.is_dir() for folder in folders)


def test_name_holds_time_and_identity(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "abcd1234", "-sweep")
    date, _, rest = folder.name.partition("_")
    assert len(date.split("-")) == 3
    assert rest.endswith("-abcd1234-sweep")


def test_an_interrupted_run_is_found_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = claim(stack, tmp_path)
        leave_record(first, "running")
    with ExitStack() as stack:
        assert claim(stack, tmp_path) == first


def test_not_while_it_is_running_nor_when_it_has_ended_nor_another(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = claim(stack, tmp_path)
        leave_record(first, "running")
        assert claim(stack, tmp_path) != first
    with ExitStack() as stack:
        assert claim(stack, tmp_path, "00001234") != first
    leave_record(first, "failed")
    with ExitStack() as stack:
        assert claim(stack, tmp_path) != first


def test_a_damaged_record_is_left_alone(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "abcd1234")
    (folder / "record.json").write_text("{")
    with ExitStack() as stack:
        assert claim(stack, tmp_path) != folder


def test_lock_is_free_again_afterwards(tmp_path: Path) -> None:
    with locked(tmp_path) as first:
        assert first
        with locked(tmp_path) as second:
            assert not second
    with locked(tmp_path) as third:
        assert third


def test_latest_follows_and_goes_back(tmp_path: Path) -> None:
    one, two = new_folder(tmp_path / "x", "1"), new_folder(tmp_path / "x", "2")
    link = tmp_path / "latest"
    assert point_latest(tmp_path, one) is None
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == one
    assert point_latest(tmp_path, two) == one
    point_latest(tmp_path, None)
    assert not link.is_symlink()


def test_a_real_folder_called_latest_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    point_latest(tmp_path, new_folder(tmp_path / "x", "1"))
    assert not (tmp_path / "latest").is_symlink()
