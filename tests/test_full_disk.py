"""A full disk, at each place that writes: a line or two, what was there before is whole, and the run goes on later."""

import errno
import io
import os
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from builders import network, stage, tiny_domain, training

from graft import features
from graft.callbacks.checkpoints import LAST, AtomicCheckpointIO, read_checkpoint
from graft.errors import UserError, of_file, storage_error
from graft.features import FeatureCache
from graft.models.weights import save_weights
from graft.records import files
from graft.records.files import atomic_write_bytes, atomic_write_sealed_json
from graft.records.store import Store
from graft.stage import Fitted, fit_stage

NO_ROOM = "No space left on device"


class Full(io.FileIO):
    """A file of which a few bytes fit on the disk."""

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, NO_ROOM)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The disk is full for new files that `atomic_file` writes whose names hold one of these words."""
    names: list[str] = []
    whole = Path.open

    def opened(path: Path, mode: str = "r", *args: Any, **settings: Any) -> IO[Any]:
        if "x" in mode and any(name in path.name for name in names):
            return Full(path, "x")  # type: ignore[return-value]
        return whole(path, mode, *args, **settings)

    monkeypatch.setattr(files.Path, "open", opened)
    return names


WRITERS = {
    "bytes": lambda path: atomic_write_bytes(path, b"new"),
    "record": lambda path: atomic_write_sealed_json(path, {"new": 1}),
    "checkpoint": lambda path: AtomicCheckpointIO().save_checkpoint({"new": torch.zeros(9)}, path),
    "weights": lambda path: save_weights(network(), path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_keeps_what_it_held(tmp_path: Path, full: list[str], writer: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    full.append("file")
    with pytest.raises(OSError, match=NO_ROOM) as raised:
        WRITERS[writer](path)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    full.clear()
    WRITERS[writer](path)
    assert path.read_bytes() != b"old"


def test_an_entry_of_the_store_is_made_later(tmp_path: Path, full: list[str]) -> None:
    def fill(folder: Path) -> None:
        (folder / "values").write_bytes(b"1")

    store = Store(tmp_path)
    full.append("manifest")
    with pytest.raises(OSError, match=NO_ROOM):
        store.get_or_make("backbone", "0" * 16, fill)
    assert store.entry("backbone", "0" * 16) is None
    assert not list((tmp_path / "backbone" / "00").iterdir())
    full.clear()
    assert store.get_or_make("backbone", "0" * 16, fill).is_dir()


def fit(folder: Path, **settings: Any) -> Fitted:
    folder.mkdir(exist_ok=True)
    cache = FeatureCache(Store(folder / "store"), 2**30)
    return fit_stage(stage(folder / "stage", tiny_domain(folder), training("lp_ft", 3), cache=cache), network())


def test_a_stage_goes_on_once_there_is_room(tmp_path: Path, full: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(tmp_path / "whole")
    saved, times = AtomicCheckpointIO.save_checkpoint, []

    def third_does_not_fit(*args: Any, **settings: Any) -> None:
        times.append(1)
        full[:] = ["ckpt"] * (len(times) == 3)
        saved(*args, **settings)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", third_does_not_fit)
    with pytest.raises(OSError, match=NO_ROOM):
        fit(tmp_path / "cut")
    assert len(read_checkpoint(tmp_path / "cut" / "stage" / LAST)["stage"]["history"]) == 2
    again = fit(tmp_path / "cut")
    assert all(torch.equal(whole.last[name], again.last[name]) for name in whole.last)


def test_features_that_have_no_room_are_refused_before_they_are_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, NO_ROOM)

    monkeypatch.setattr(features.os, "posix_fallocate", no_room)
    with pytest.raises(OSError, match=NO_ROOM) as raised:
        fit(tmp_path / "cut")
    assert raised.value.filename.endswith("values.bin")
    monkeypatch.undo()
    assert len(fit(tmp_path / "cut").history) == 3


def test_the_cause_is_found_whatever_was_made_of_it() -> None:
    try:
        try:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), "a/b")
        except OSError as error:
            raise RuntimeError("unexpected pos 64 vs 0") from error
    except RuntimeError as error:
        found = storage_error(error)
    assert found is not None
    assert of_file(found) == "a/b: Read-only file system"
    assert storage_error(UserError("other")) is None
    assert storage_error(FileNotFoundError(errno.ENOENT, "none", "a")) is None
