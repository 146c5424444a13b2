"""Hashes of files that are kept until the file changes."""

import os
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from graft.data import content_index
from graft.data.content_index import ContentIndex


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read."""
    names: list[str] = []
    hash_file = content_index.hash_file

    def noted(name: str) -> bytes:
        names.append(Path(name).name)
        return hash_file(name)

    monkeypatch.setattr(content_index, "hash_file", noted)
    return names


def files(folder: Path, **contents: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        path = folder / name
        path.write_text(text)
        age(path)
    return [str(folder / name) for name in contents]


def age(path: Path) -> None:
    """Times of long ago; the time of the entry cannot be set, so what is settled is taken to be so at once."""
    os.utime(path, ns=(10**18, 10**18))


@pytest.fixture(autouse=True)
def _settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_index, "SETTLED", -(10**12))


def expected(*contents: str) -> np.ndarray:
    return np.stack([np.frombuffer(blake2b(text.encode(), digest_size=20).digest(), np.uint8) for text in contents])


def test_files_are_read_once(tmp_path: Path, read: list[str]) -> None:
    names, index = files(tmp_path / "data", a="1", b="2"), ContentIndex(tmp_path / "index" / "i.npz")
    for _ in range(2):
        np.testing.assert_array_equal(index.hashes(names), expected("1", "2"))
    assert sorted(read) == ["a", "b"]


def test_only_what_changed_is_read_again(tmp_path: Path, read: list[str]) -> None:
    names, index = files(tmp_path / "data", a="1", b="2", d="4"), ContentIndex(tmp_path / "i.npz")
    index.hashes(names)
    read.clear()
    files(tmp_path / "data", b="3")  # of the same length, with the same time
    names = [*names[:2], *files(tmp_path / "data", c="5")]
    np.testing.assert_array_equal(index.hashes(names), expected("1", "3", "5"))
    assert sorted(read) == ["b", "c"]
    read.clear()
    np.testing.assert_array_equal(index.hashes(names[::-1]), expected("5", "3", "1"))
    assert read == []


def test_a_file_that_has_just_changed_is_not_relied_on(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_index, "SETTLED", 10**12)
    names, index = files(tmp_path / "data", a="1"), ContentIndex(tmp_path / "i.npz")
    index.hashes(names)
    index.hashes(names)
    assert read == ["a", "a"]


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-30], lambda data: b"not an index"])
def test_a_damaged_index_is_made_again(damage: object, tmp_path: Path, read: list[str]) -> None:
    names, index = files(tmp_path / "data", a="1", b="2"), ContentIndex(tmp_path / "i.npz")
    index.hashes(names)
    index.path.write_bytes(damage(index.path.read_bytes()))  # type: ignore[operator]
    np.testing.assert_array_equal(index.hashes(names), expected("1", "2"))
    read.clear()
    index.hashes(names)
    assert read == []


def test_where_it_cannot_be_written_files_are_read_each_time(
    tmp_path: Path, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    names, index = files(tmp_path / "data", a="1"), ContentIndex(tmp_path / "file" / "i.npz")
    for _ in range(2):
        np.testing.assert_array_equal(index.hashes(names), expected("1"))
    assert read == ["a", "a"]
    assert "cannot be written" in caplog.text


def test_names_that_are_no_utf8(tmp_path: Path, read: list[str]) -> None:
    (tmp_path / "data").mkdir()
    name = os.fsdecode(os.fsencode(str(tmp_path / "data")) + b"/\xff")
    Path(name).write_text("1")
    index = ContentIndex(tmp_path / "i.npz")
    for _ in range(2):
        np.testing.assert_array_equal(index.hashes([name]), expected("1"))
    assert len(read) == 1
