from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft.data.readers.arrays import Arrays
from graft.errors import UserError


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {
        "x_train": rng.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": rng.integers(0, 256, (3, 5, 4, 3), dtype=np.uint8),
        "y_test": np.array([0, 1, 2], dtype=np.uint8),
    } | changes
    return {name: value for name, value in made.items() if value is not None}


def write(path: Path, **changes: Any) -> str:
    np.savez(path, **arrays(**changes))
    return str(path)


def test_reads_what_was_written(tmp_path: Path) -> None:
    raw = Arrays(write(tmp_path / "a.npz", class_names=np.array(["ant", "bee", "wasp"]))).read()
    assert raw.test is not None
    assert raw.val is None
    assert np.array_equal(raw.train.samples, arrays()["x_train"])
    assert raw.test.labels.tolist() == [0, 1, 2]
    assert raw.test.labels.dtype == np.int64
    assert raw.class_names == ("ant", "bee", "wasp")


def test_test_split_and_class_names_may_be_missing(tmp_path: Path) -> None:
    raw = Arrays(write(tmp_path / "a.npz", x_test=None, y_test=None, x_train=np.zeros((6, 5, 4), np.uint8))).read()
    assert raw.test is None
    assert raw.class_names == ("0", "1", "2")


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    first = Arrays(write(tmp_path / "a.npz")).read().fingerprint
    assert Arrays(write(tmp_path / "elsewhere.npz")).read().fingerprint == first
    others = [
        {"x_train": arrays()["x_train"] ^ np.uint8(1)},
        {"y_train": np.array([0, 1, 2, 0, 2, 1])},
        {"class_names": np.array(["ant", "bee", "wasp"])},
        {"x_test": None, "y_test": None},
    ]
    found = {Arrays(write(tmp_path / f"{i}.npz", **other)).read().fingerprint for i, other in enumerate(others)}
    assert len(found | {first}) == 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_train": None}, "holds no array 'x_train'"),
        ({"y_train": None}, "x_train has no labels y_train"),
        ({"y_train": np.arange(5) % 3}, "x_train holds 6 images, but y_train 5 labels"),
        ({"y_test": np.arange(4) % 3}, "x_test holds 3 images, but y_test 4 labels"),
        ({"x_train": np.zeros((6, 5, 4, 3), np.float32)}, "x_train is float32 .* expected uint8"),
        ({"x_train": np.zeros((6, 3, 5, 4), np.uint8)}, "c of 1 or 3"),
        ({"y_train": np.zeros((6, 3), np.int64)}, "y_train is int64 .* expected integer class indices"),
        ({"y_train": np.zeros(6)}, "y_train is float64"),
        ({"y_train": np.array([0, 1, 2, 0, 1, -1])}, "holds the label -1"),
        ({"class_names": np.array(["ant", "bee"])}, "holds the label 2, but class_names 2 names"),
        ({"x_trian": np.zeros(1)}, "unknown array 'x_trian'; did you mean 'x_train'"),
        ({"class_names": np.array([{"a": 1}, None], dtype=object)}, "not a readable .npz file of plain arrays"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "bad.npz", **changes)
    with pytest.raises(UserError, match=said) as caught:
        Arrays(path).read()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not a file of arrays"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable"):
        Arrays(str(path)).read()


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.npz"
    write(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="not a readable"):
        Arrays(str(path)).read()


def test_a_missing_file_names_its_nearest_sibling(tmp_path: Path) -> None:
    write(tmp_path / "flowers.npz")
    with pytest.raises(UserError, match=r"no such file; did you mean '.*flowers\.npz'"):
        Arrays(str(tmp_path / "flwers.npz")).read()
    with pytest.raises(UserError, match="is a folder"):
        Arrays(str(tmp_path)).read()
