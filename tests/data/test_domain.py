import logging
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graft.batch import UnlabelledBatch
from graft.data.augment import Augmentation
from graft.data.domain import Domain
from graft.data.preprocessing import Preprocessing
from graft.data.readers.base import RawDataset, RawSplit, hash_splits
from graft.errors import UserError

PREPROCESSING = Preprocessing(8, (0.5,), (0.5,))
NAMES = ("ant", "bee", "wasp")


def numbered(labels: np.ndarray, first: int = 0) -> RawSplit:
    """Images that tell which sample they are: two pixels hold the number."""
    numbers = np.arange(first, first + len(labels))
    images = np.zeros((len(labels), 8, 8), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = numbers // 256, numbers % 256
    return RawSplit(images, labels)


class Numbered:
    """A reader of numbered images; train from 0, test from 1000, val from 2000."""

    def __init__(self, train: int = 60, test: int | None = 15, val: int | None = None) -> None:
        self.counts = (train, test, val)
        self.num_reads = 0

    def read(self) -> RawDataset:
        self.num_reads += 1
        splits = [
            None if count is None else numbered(np.arange(count) % 3, first)
            for count, first in zip(self.counts, (0, 1000, 2000), strict=True)
        ]
        train, test, val = splits
        assert train is not None
        return RawDataset(train, test, val, NAMES, hash_splits(splits, NAMES))


def loaded(reader: Any = None, preprocessing: Preprocessing = PREPROCESSING, **settings: Any) -> Domain:
    domain = Domain("insects", reader or Numbered(), **settings)
    domain.load(preprocessing)
    return domain


def numbers(loader: Any) -> list[int]:
    """Which samples a loader gives, in order."""
    return [int(n) for batch in loader for n in batch.x[:, 0, 0, 0].long() * 256 + batch.x[:, 0, 0, 1]]


def test_splits_are_disjoint_stratified_and_served_whole() -> None:
    domain = loaded(val_fraction=0.2, batch_size=7)
    assert domain.sizes == {"train": 48, "val": 12, "test": 15}
    train, val, test = (numbers(domain.loader(split)) for split in ("train", "val", "test"))
    assert sorted(train + val) == list(range(60))
    assert test == list(range(1000, 1015))
    for split in ("train", "val", "test"):
        for batch in domain.loader(split):
            assert torch.equal(batch.y, torch.tensor([n % 3 if n < 1000 else (n - 1000) % 3 for n in numbers([batch])]))
    assert (domain.num_classes, domain.class_names) == (3, NAMES)


def test_a_test_split_is_taken_from_train_where_there_is_none() -> None:
    domain = loaded(Numbered(test=None), test_fraction=0.5, val_fraction=0.1)
    assert domain.sizes == {"train": 27, "val": 3, "test": 30}
    everything = [n for split in domain.sizes for n in numbers(domain.loader(split))]
    assert sorted(everything) == list(range(60))


def test_a_val_split_that_the_data_come_with_is_used() -> None:
    domain = loaded(Numbered(val=9))
    assert domain.sizes == {"train": 60, "val": 9, "test": 15}
    assert numbers(domain.loader("val")) == list(range(2000, 2009))


def test_the_label_budget_is_exact_and_leaves_val_and_test_alone() -> None:
    few, many = loaded(labels_per_class=2), loaded(labels_per_class=5)
    assert few.sizes == {"train": 6, "val": 6, "test": 15}
    assert sorted(n % 3 for n in numbers(few.loader("train"))) == [0, 0, 1, 1, 2, 2]
    assert set(numbers(few.loader("train"))) < set(numbers(many.loader("train")))
    assert numbers(few.loader("val")) == numbers(many.loader("val"))


def test_test_labels_have_no_influence_on_training() -> None:
    class Permuted(Numbered):
        def read(self) -> RawDataset:
            raw = super().read()
            assert raw.test is not None
            test = RawSplit(raw.test.samples, raw.test.labels[::-1].copy())
            return RawDataset(raw.train, test, None, raw.class_names, raw.fingerprint)

    one, other = loaded(), loaded(Permuted())
    for name in ("train", "val"):
        for a, b in zip(one.loader(name), other.loader(name), strict=True):
            assert all(map(torch.equal, a[:3], b[:3]))


def test_nothing_is_read_again_for_the_same_preprocessing() -> None:
    reader = Numbered()
    domain = loaded(reader)
    domain.load(Preprocessing(8, (0.5,), (0.5,)))
    assert reader.num_reads == 1
    domain.load(Preprocessing(16, (0.5,) * 3, (0.5,) * 3))
    assert reader.num_reads == 2
    [batch, *_] = domain.loader("train")
    assert batch.x.shape[1:] == (3, 16, 16)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels_per_class": 3},
        {"fraction": 0.5},
        {"split_seed": 1},
        {"val_fraction": 0.2},
        {"reader": Numbered(train=63)},
        {"preprocessing": Preprocessing(8, (0.4,), (0.5,))},
    ],
)
def test_what_changes_the_samples_changes_the_fingerprint(changes: dict[str, Any]) -> None:
    assert loaded(**changes).fingerprint != loaded().fingerprint
    same_but_for_the_split = "split_seed" in changes
    assert (loaded(**changes).fingerprint_of_any_split == loaded().fingerprint_of_any_split) is same_but_for_the_split


@pytest.mark.parametrize(
    "changes",
    [
        {"augmentation": Augmentation(flip=True)},
        {"batch_size": 3},
        {"num_workers": 2},
        {"memory_limit_gib": 0.0},
        {"skip_broken": True},
    ],
)
def test_what_does_not_change_them_does_not(changes: dict[str, Any]) -> None:
    assert loaded(**changes).fingerprint == loaded().fingerprint


def test_the_order_follows_seed_and_epoch_of_the_stage() -> None:
    domain = loaded()

    def order(seed: int, first_epoch: int, epoch: int) -> list[int]:
        domain.begin(seed, first_epoch)
        loader = domain.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return numbers(loader)

    assert order(1, 0, 3) == order(1, 2, 1)
    assert len({tuple(order(seed, 0, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert sorted(order(1, 0, 0)) == sorted(numbers(domain.loader("train")))


def test_views_are_fixed_on_demand_and_where_nothing_is_random() -> None:
    assert loaded(augmentation=Augmentation()).augmentation is None
    domain = loaded(augmentation=Augmentation(flip=True))
    assert domain.view.augmentation == Augmentation(flip=True)
    domain.begin(0, 0, augment=False)
    assert domain.view.augmentation is None


def test_without_validation_samples_there_is_no_loader() -> None:
    domain = loaded(val_fraction=0.0)
    assert domain.sizes["val"] == 0
    assert domain.val_dataloader() == []
    assert len(domain.test_dataloader()) > 0


def test_unlabelled_batches_are_of_the_images_outside_the_budget_and_hold_no_labels() -> None:
    domain = loaded(labels_per_class=1)
    seen = []
    for batch in domain.unlabelled_loader("train"):
        assert isinstance(batch, UnlabelledBatch)
        seen += numbers([batch])
    assert len(seen) == 54 - domain.sizes["train"] == 51
    assert not set(seen) & set(numbers(domain.loader("val")))
    assert max(seen) < 1000
    assert not set(seen) & set(numbers(domain.loader("train")))


def test_ranks_share_training_samples_and_each_sees_all_of_val() -> None:
    domain = loaded(batch_size=5)
    seen, val = [], []
    for rank in range(2):
        domain.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        seen += numbers(domain.train_dataloader())
        val.append(numbers(domain.val_dataloader()))
    assert sorted(seen) == sorted(numbers(domain.loader("train")))
    assert val[0] == val[1]


def test_loading_and_iterating_leave_the_global_generators_alone() -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    numbers(loaded(labels_per_class=2).train_dataloader())
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_a_domain_can_be_sent_to_another_process() -> None:
    domain = loaded(labels_per_class=2)
    copy = pickle.loads(pickle.dumps(domain))
    assert numbers(copy.train_dataloader()) == numbers(domain.train_dataloader())


def test_images_that_do_not_fit_in_memory_are_the_same() -> None:
    kept, streamed = loaded(), loaded(memory_limit_gib=0.0, num_workers=0)
    assert kept._num_workers(kept.datasets["train"].images) == 0
    assert loaded(memory_limit_gib=0.0)._num_workers(streamed.datasets["train"].images) > 0
    for a, b in zip(kept.train_dataloader(), streamed.train_dataloader(), strict=True):
        assert all(map(torch.equal, a[:3], b[:3]))


class Files:
    """A reader of image files in `root`, of which some are broken."""

    def __init__(self, root: Path, num_images: int = 24, broken: tuple[int, ...] = ()) -> None:
        self.root = root
        self.paths = [root / f"{i}.png" for i in range(num_images)]
        for i, path in enumerate(self.paths):
            Image.fromarray(numbered(np.zeros(1, int), i).samples[0]).save(path)
            if i in broken:
                path.write_bytes(path.read_bytes()[:40])

    def read(self) -> RawDataset:
        train = RawSplit(self.paths, np.arange(len(self.paths)) % 3)
        return RawDataset(train, None, None, NAMES, hash_splits((train,), NAMES), self.root)


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_all_broken_images_are_named_at_once(tmp_path: Path, limit: float) -> None:
    with pytest.raises(UserError) as caught:
        loaded(Files(tmp_path, broken=(2, 3, 11)), memory_limit_gib=limit)
    message = str(caught.value)
    assert "\n" not in message
    assert all(f"{i}.png" in message for i in (2, 3, 11))
    assert "3 images cannot be read" in message
    assert "skip_broken=true" in message


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_broken_images_are_left_out_on_demand_and_still_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: float
) -> None:
    with caplog.at_level(logging.WARNING, logger="graft.data.domain"):
        domain = loaded(Files(tmp_path, broken=(2, 3)), skip_broken=True, memory_limit_gib=limit, num_workers=0)
    assert "2.png" in caplog.text
    assert "3.png" in caplog.text
    assert sum(domain.sizes.values()) == 22
    for split in domain.sizes:
        for batch in domain.loader(split):
            assert batch.y.tolist() == [n % 3 for n in numbers([batch])]
            assert not {2, 3} & set(numbers([batch]))


def test_a_class_whose_images_are_all_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training samples of class 'bee'"):
        loaded(Files(tmp_path, num_images=6, broken=(1, 4)), skip_broken=True)


def reader_of(train: np.ndarray, test: np.ndarray | None = None, names: tuple[str, ...] = NAMES) -> Any:
    raw = RawDataset(numbered(train), None if test is None else numbered(test), None, names, "0")
    return SimpleNamespace(read=lambda: raw)


@pytest.mark.parametrize(
    ("reader", "said"),
    [
        (reader_of(np.array([0, 0, 2, 2])), "insects: no training samples of class 'bee'"),
        (reader_of(np.array([0, 0]), names=("ant",)), "expected two classes or more, found 1"),
        (reader_of(np.arange(6) % 3, np.array([3])), "test holds the label 3, but there are 3 classes"),
        (reader_of(np.zeros(0, int), names=()), "expected two classes or more, found 0"),
    ],
)
def test_classes_that_cannot_be_trained_are_refused(reader: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        loaded(reader)


def test_a_budget_that_is_too_large_is_refused() -> None:
    with pytest.raises(UserError, match=r"labels_per_class=19: class 'ant' has 18 training samples"):
        loaded(labels_per_class=19)
    with pytest.raises(UserError, match="batch_size=0"):
        Domain("insects", Numbered(), batch_size=0)
