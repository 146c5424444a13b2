"""Source and target side by side: every sample comes, none with a target's label, in an order of seed and epoch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from builders import tiny_domain
from torch import Tensor

from graft.batch import PairedBatch, UnlabelledBatch
from graft.data.paired import PairedData


@pytest.fixture
def paired(tmp_path: Path) -> PairedData:
    """48 samples of the source; 60 of the target, or those that a test leaves."""
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    source = tiny_domain(tmp_path / "source", batch_size=16)
    target = tiny_domain(tmp_path / "target", batch_size=10)
    data = PairedData(source, target, source_free=False)
    data.begin(seed=3, first_epoch=0)
    return data


def batches(data: PairedData, epoch: int = 0) -> list[PairedBatch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    found = list(loader)
    assert len(found) == len(loader)
    return found


def positions(found: list[PairedBatch]) -> tuple[Tensor, Tensor]:
    sources = [batch.source.positions for batch in found if batch.source is not None]
    return torch.cat(sources), torch.cat([batch.target.positions for batch in found])


def few(data: PairedData, num: int) -> None:
    """Leave so many images of the target."""
    pool = data.target.pool
    data.target.pool = type(pool)(pool.images, pool.positions[:num], pool.labels[:num])


@pytest.mark.parametrize("num_target", [3, 11, 48], ids="{} of the target".format)
def test_every_sample_of_both_comes_in_an_epoch(paired: PairedData, num_target: int) -> None:
    few(paired, num_target)
    source, target = positions(batches(paired))
    assert set(source.tolist()) == set(range(paired.source.sizes["train"]))
    assert set(target.tolist()) == set(range(num_target))


def test_the_longer_domain_comes_once_and_the_shorter_in_another_order_each_time(paired: PairedData) -> None:
    few(paired, 11)
    found = batches(paired)
    source, target = positions(found)
    assert len(source) == len(set(source.tolist())) == 48
    assert [len(batch.target.x) for batch in found] == [6, 5, 6]
    again = positions(batches(paired))
    assert torch.equal(target, again[1])
    assert torch.equal(source, again[0])
    assert not torch.equal(source, positions(batches(paired, epoch=1))[0])


def test_a_cycle_has_an_order_of_its_own(paired: PairedData) -> None:
    few(paired, 20)
    paired.source.batch_size = 4  # twelve batches beside two
    _, target = positions(batches(paired))
    first, second = target[:20], target[20:40]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(20))
    assert not torch.equal(first, second)


def test_targets_have_no_labels(tmp_path: Path) -> None:
    data = PairedData(tiny_domain(tmp_path), tiny_domain(tmp_path, batch_size=10), source_free=True)
    data.begin(seed=0, first_epoch=0)
    found = batches(data)
    assert all(isinstance(batch.target, UnlabelledBatch) for batch in found)
    assert all(batch.source is None and batch.labelled is None for batch in found)
    assert not hasattr(found[0].target, "y")
    assert sum(len(batch.target.x) for batch in found) == 48


@pytest.mark.parametrize("source_free", [False, True], ids=["with source", "source-free"])
def test_images_in_the_label_budget_come_with_labels_and_the_others_without(tmp_path: Path, source_free: bool) -> None:
    target = tiny_domain(tmp_path, batch_size=10, labels_per_class=2)
    data = PairedData(tiny_domain(tmp_path), target, source_free=source_free)
    data.begin(seed=0, first_epoch=0)
    found = batches(data)
    few = {int(position) for batch in found for position in batch.labelled.positions}  # type: ignore[union-attr]
    rest = [int(position) for batch in found for position in batch.target.positions]
    assert few == set(range(6))
    assert sorted(rest) == list(range(42))
    kept, left_out = target.datasets["train"].positions, target.pool.positions
    assert not set(kept.tolist()) & set(left_out.tolist())
    assert [len(batch.labelled.x) for batch in found] == [6] * len(found)  # type: ignore[union-attr]


def test_a_budget_of_labels_leaves_all_images_to_norm_statistics(tmp_path: Path) -> None:
    whole, few = tiny_domain(tmp_path), tiny_domain(tmp_path, labels_per_class=2).with_all_images()
    assert torch.equal(few.datasets["train"].positions, whole.datasets["train"].positions)
    assert torch.equal(few.datasets["train"].labels, whole.datasets["train"].labels)


def test_validation_samples_are_the_sources(paired: PairedData) -> None:
    labels = np.concatenate([batch.y.numpy() for batch in paired.val_dataloader()])
    assert len(labels) == paired.source.sizes["val"]
