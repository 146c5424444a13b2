"""What jobs of one process share is never stale."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import write_arrays
from PIL import Image

from graft.data import shared as module
from graft.data.domain import Domain
from graft.data.preprocessing import Preprocessing
from graft.data.readers.arrays import Arrays
from graft.data.readers.digits import Digits
from graft.data.readers.image_folder import ImageFolder
from graft.data.versions import file_version, tree_version
from graft.errors import UserError

PREPROCESSING = Preprocessing(8, (0.5,), (0.5,))


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_known", type(module._known)())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The domains that were decoded."""
    found: list[Any] = []
    decode = Domain._decode

    def counted(self: Domain, preprocessing: Preprocessing) -> Any:
        found.append(self)
        return decode(self, preprocessing)

    monkeypatch.setattr(Domain, "_decode", counted)
    return found


def loaded(reader: Any, preprocessing: Preprocessing = PREPROCESSING, **settings: Any) -> Domain:
    domain = Domain("d", reader, **settings)
    domain.load(preprocessing)
    return domain


def folder_of_images(root: Path, value: int = 0) -> Path:
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(6):
            Image.fromarray(np.full((9, 9), value + i, np.uint8)).save(root / name / f"{i}.png")
    return root


def test_two_domains_share_what_is_decoded(reads: list[Any]) -> None:
    first, second = loaded(Digits(), labels_per_class=1), loaded(Digits(), labels_per_class=2, batch_size=8)
    assert len(reads) == 1
    assert first.datasets["train"].images is second.datasets["train"].images
    assert (first.sizes["train"], second.sizes["train"]) == (10, 20)
    assert first.fingerprint != second.fingerprint


def test_not_under_another_preprocessing_or_limit(reads: list[Any]) -> None:
    loaded(Digits())
    loaded(Digits(), Preprocessing(16, (0.5,), (0.5,)))
    loaded(Digits(), memory_limit_gib=0.0)
    assert len(reads) == 3


def test_a_file_that_is_written_again_is_read_again(tmp_path: Path, reads: list[Any]) -> None:
    path = write_arrays(tmp_path / "a.npz", seed=1)
    first = loaded(Arrays(str(path)))
    assert loaded(Arrays(str(path))).fingerprint == first.fingerprint
    assert len(reads) == 1
    times = path.stat()
    write_arrays(path, seed=2)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    assert loaded(Arrays(str(path))).fingerprint != first.fingerprint


@pytest.mark.parametrize("change", ["written", "added", "removed", "renamed"])
def test_a_folder_that_changes_is_read_again(change: str, tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images")
    first = loaded(ImageFolder(root))
    if change == "written":
        Image.fromarray(np.full((9, 9), 200, np.uint8)).save(root / "ant" / "0.png")
    elif change == "added":
        Image.fromarray(np.full((9, 9), 200, np.uint8)).save(root / "ant" / "9.png")
    elif change == "removed":
        (root / "bee" / "3.png").unlink()
    else:
        (root / "ant").rename(root / "wasp")
    assert loaded(ImageFolder(root)).fingerprint != first.fingerprint


def test_an_empty_class_is_still_refused(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images")
    loaded(ImageFolder(root))
    (root / "wasp").mkdir()
    with pytest.raises(UserError, match="wasp"):
        loaded(ImageFolder(root))


def test_broken_images_are_named_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder_of_images(tmp_path / "images")
    (root / "ant" / "0.png").write_bytes(b"no picture")
    for _ in range(2):
        loaded(ImageFolder(root), skip_broken=True)
    assert len([line for line in caplog.messages if "0.png" in line]) == 2
    with pytest.raises(UserError, match=r"0\.png"):
        loaded(ImageFolder(root))


def test_a_reader_without_version_is_read_each_time(reads: list[Any]) -> None:
    class Plain:
        def read(self) -> Any:
            return Digits().read()

    loaded(Plain())
    loaded(Plain())
    assert len(reads) == 2


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, reads: list[Any]) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 200_000)  # 1,797 images of 8 x 8 are 115,008
    loaded(Digits())
    loaded(Digits(), memory_limit_gib=1.0)
    assert len(module._known) == 1
    loaded(Digits())
    assert len(reads) == 3


def test_versions_of_what_is_not_there(tmp_path: Path) -> None:
    assert file_version(tmp_path / "none") is None
    assert tree_version(tmp_path / "none") is None
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert tree_version(tmp_path) is None  # what lies behind a link is not watched
