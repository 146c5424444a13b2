import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from graft.batch import LabelledBatch, UnlabelledBatch
from graft.data.datasets import EpochSampler, LabelledImages, UnlabelledImages
from graft.data.images import KeptImages
from graft.errors import UserError

NUM = st.integers(1, 300)
SIZE = st.integers(1, 70)


def batches(*args: object, epoch: int = 0, **settings: object) -> list[list[int]]:
    sampler = EpochSampler(*args, **settings)  # type: ignore[arg-type]
    sampler.set_epoch(epoch)
    found = [batch.tolist() for batch in sampler]
    assert len(found) == len(sampler)
    return found


@given(num=NUM, batch_size=SIZE, seed=st.integers(0, 3), epoch=st.integers(0, 3), shuffle=st.booleans())
def test_every_sample_comes_once_in_batches_of_almost_one_size(
    num: int, batch_size: int, seed: int, epoch: int, shuffle: bool
) -> None:
    found = batches(num, batch_size, seed, epoch=epoch, shuffle=shuffle)
    assert sorted(index for batch in found for index in batch) == list(range(num))
    sizes = {len(batch) for batch in found}
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(found) == -(-num // batch_size)


@given(num=NUM, batch_size=SIZE, world_size=st.integers(1, 5))
def test_ranks_share_the_samples_and_take_the_same_number_of_steps(num: int, batch_size: int, world_size: int) -> None:
    if num < world_size:
        with pytest.raises(UserError, match="cannot be shared"):
            EpochSampler(num, batch_size, world_size=world_size)
        return
    ranks = [batches(num, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    everything = [batch for rank in ranks for batch in rank]
    assert sorted(index for batch in everything for index in batch) == list(range(num))
    sizes = {len(batch) for batch in everything}
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_the_order_is_a_function_of_seed_and_epoch_of_the_stage() -> None:
    assert batches(50, 8, 3, 2, epoch=5) == batches(50, 8, 3, 7, epoch=0)
    assert batches(50, 8, 3, 2, epoch=5) != batches(50, 8, 3, 2, epoch=6)
    assert batches(50, 8, 3) != batches(50, 8, 4)


def test_the_order_does_not_touch_the_global_generators() -> None:
    states = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())  # noqa: NPY002
    first = batches(50, 8, 3)
    torch.manual_seed(17)
    torch.set_rng_state(states[2])
    assert batches(50, 8, 3) == first
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_without_shuffling_samples_come_as_they_lie() -> None:
    assert [index for batch in batches(10, 4, shuffle=False) for index in batch] == list(range(10))


@pytest.fixture
def images() -> KeptImages:
    return KeptImages(torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 2))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_gives_whole_batches(images: KeptImages, num_workers: int) -> None:
    dataset = LabelledImages(images, torch.tensor([5, 3, 1]), torch.tensor([2, 1, 0]))
    loader = DataLoader(dataset, sampler=EpochSampler(3, 2, shuffle=False), batch_size=None, num_workers=num_workers)
    first, second = loader
    assert isinstance(first, LabelledBatch)
    assert first.x.shape == (2, 3, 2, 2)
    assert first.x.dtype == torch.uint8
    assert first.x[:, 0, 0, 0].tolist() == [5, 3]
    assert (first.y.tolist(), first.positions.tolist()) == ([2, 1], [0, 1])
    assert (second.y.tolist(), second.positions.tolist()) == ([0], [2])


def test_unlabelled_images_hold_no_labels(images: KeptImages) -> None:
    dataset = UnlabelledImages(images, torch.tensor([5, 3, 1]))
    batch = dataset[np.array([2, 0])]
    assert isinstance(batch, UnlabelledBatch)
    assert batch._fields == ("x", "positions")
    assert batch.x[:, 0, 0, 0].tolist() == [1, 5]
    assert not hasattr(dataset, "labels")
