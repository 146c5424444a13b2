"""PyTorch's files: what is plain is read as it was written, anything else is refused."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.torch_files import DamagedFileError, load_plain

CONTENT = {"w": torch.arange(64.0), "epoch": 3, "names": ["a", "b"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.pt"
    torch.save(CONTENT, path)
    return path


def test_what_was_saved_is_read(file: Path) -> None:
    found = load_plain(file)
    assert torch.equal(found.pop("w"), torch.arange(64.0))
    assert found == {"epoch": 3, "names": ["a", "b"]}


def test_one_bit_of_a_tensor_is_noticed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    at = content.index(torch.tensor([40.0, 41.0]).numpy().tobytes())
    content[at] ^= 1
    file.write_bytes(content)
    assert torch.load(file, weights_only=True)["w"][40] != 40  # PyTorch reads it
    with pytest.raises(DamagedFileError, match="checksum"):
        load_plain(file)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_cut_off(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DamagedFileError):
        load_plain(file)


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "file.pt", tmp_path / "was_here"
    torch.save({"w": torch.ones(1), "more": Malicious(f"touch {trace}")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DamagedFileError):
        load_plain(path)
    assert not trace.exists()


def test_a_missing_file_is_not_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_plain(tmp_path / "none.pt")
