"""Margins around images and pooled splits, of the readers that have them."""

from pathlib import Path

import numpy as np
import pytest
from torchvision_files import WRITERS

from graft.data.domain import Domain
from graft.data.preprocessing import Preprocessing
from graft.data.protocol import by_protocol
from graft.data.readers.arrays import Arrays
from graft.data.readers.base import RawSplit
from graft.data.readers.torchvision import TorchvisionSet
from graft.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> str:
    """60 and 20 images of 16 x 16 pixels, grey, none of them black."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, num in (("train", 60), ("test", 20)):
        arrays[f"x_{split}"] = rng.integers(1, 256, (num, 16, 16), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(num) % 4
    np.savez(tmp_path / "a.npz", **arrays)
    return str(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 3, 1), (5, 4, 3, 3)])
def test_a_margin_lies_around_every_image(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)
    split = by_protocol({"train": RawSplit(images, np.arange(5))}, margin=2)["train"]
    assert isinstance(split.samples, np.ndarray)
    assert split.samples.shape == (5, 8, 7, *shape[3:])
    np.testing.assert_array_equal(split.samples[:, 2:-2, 2:-2], images, strict=True)
    assert (split.samples != 0).sum() == images.size


def test_pooled_splits_keep_every_sample_with_its_label(path: str) -> None:
    raw, apart = Arrays(path, pool_splits=True).read(), Arrays(path).read()
    assert raw.test is None
    assert apart.test is not None
    expected = np.concatenate([apart.train.samples, apart.test.samples])
    np.testing.assert_array_equal(raw.train.samples, expected, strict=True)
    assert raw.train.labels.tolist() == [*apart.train.labels, *apart.test.labels]
    assert len({raw.fingerprint, apart.fingerprint, Arrays(path, margin=1).read().fingerprint}) == 3


def test_a_share_of_all_is_held_out_of_pooled_splits(path: str) -> None:
    domain = Domain("pooled", Arrays(path, margin=3, pool_splits=True), val_fraction=0.0, test_fraction=0.2)
    domain.load(Preprocessing(size=28, mean=(0.5,), std=(0.5,)))
    assert domain.sizes == {"train": 64, "val": 0, "test": 16}
    [batch] = domain.loader("test", batch_size=16)
    assert (batch.x[:, :, :3] == 0).all()


def test_files_are_pooled_too(tmp_path: Path) -> None:
    splits = {
        name: RawSplit([tmp_path / f"{name}.png"], np.array([label])) for name, label in (("train", 0), ("test", 1))
    }
    pooled = by_protocol(splits, pool_splits=True)
    assert pooled.keys() == {"train"}
    assert pooled["train"].samples == [tmp_path / "train.png", tmp_path / "test.png"]
    assert pooled["train"].labels.tolist() == [0, 1]


def test_torchvision_sets_have_both(tmp_path: Path) -> None:
    WRITERS["usps"](tmp_path)
    raw = TorchvisionSet("usps", tmp_path, margin=3, pool_splits=True).read()
    assert raw.test is None
    assert isinstance(raw.train.samples, np.ndarray)
    assert raw.train.samples.shape == (4, 22, 22)
    assert raw.train.labels.tolist() == [3, 1, 9, 0]


def test_what_cannot_have_a_margin_says_so(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="margin=-1: expected a number of pixels from 0"):
        Arrays(path, margin=-1).read()
    WRITERS["eurosat"](tmp_path)
    with pytest.raises(UserError, match="margin=3: this data set is of image files"):
        TorchvisionSet("eurosat", tmp_path, margin=3).read()
