"""Images that are read where they are needed are to everyone what they would be in memory of their own."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from graft.batch import LabelledBatch
from graft.data import batchwise
from graft.data.augment import Augmentation
from graft.data.datasets import BatchLoader, EpochSampler, LabelledImages, UnlabelledImages
from graft.data.domain import Domain
from graft.data.images import KeptImages, MappedImages
from graft.data.lazy import LazyImages, sources, take
from graft.data.preprocessing import Preprocessing
from graft.data.readers.image_folder import ImageFolder
from graft.data.view import View

ROWS = torch.tensor([5, 0, 3, 5])
PREPROCESSING = Preprocessing(12, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), resize=16)


def stored(memory_format: torch.memory_format = torch.channels_last, num: int = 7) -> Tensor:
    x = torch.randint(0, 256, (num, 3, 16, 16), dtype=torch.uint8, generator=Generator().manual_seed(0))
    return x.contiguous(memory_format=memory_format)


@pytest.fixture
def always_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchwise, "WORTH_THREADS", 0)
    monkeypatch.setattr(batchwise, "PIECE", 500)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x[1],
        lambda x: x[1:3],
        lambda x: x[:, 1, 2:5],
        lambda x: x[torch.tensor([2, 1])],
        lambda x: x.float().mean(dim=0),
        lambda x: x.permute(0, 2, 3, 1).contiguous(),
        lambda x: torch.cat([x, x]),
        lambda x: torch.stack(list(x)),
        lambda x: x.to(torch.float64),
        lambda x: x.clone(),
        lambda x: torch.where(x > 100, x, 0),
        lambda x: torch.tensor([len(x), *x.shape, x.numel(), x.dim()]),
    ],
)
def test_every_operation_takes_it_for_a_tensor(use: Callable[[Tensor], Tensor]) -> None:
    found, expected = use(LazyImages(stored(), ROWS)), use(stored()[ROWS])
    assert type(found) is Tensor
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_it_goes_to_a_device_as_a_tensor() -> None:
    lazy = LazyImages(stored(), ROWS)
    assert lazy.device == torch.device("cpu")
    assert lazy.to("cpu") is lazy
    moved = lazy.to(torch.device("meta"), non_blocking=True)
    assert type(moved) is Tensor
    assert moved.device.type == "meta"


@given(st.lists(st.integers(0, 6), min_size=1), st.integers(-9, 9), st.integers(-9, 9))
def test_a_slice_is_that_of_the_whole(rows: list[int], start: int, stop: int) -> None:
    chosen = torch.tensor(rows)
    assert torch.equal(LazyImages(stored(), chosen)[start:stop], stored()[chosen][start:stop])


def test_another_process_gets_its_images_alone() -> None:
    lazy = LazyImages(stored(num=1000), ROWS)
    sent = pickle.dumps(lazy)
    assert len(sent) < 10 * lazy.numel()
    received = pickle.loads(sent)
    assert type(received) is Tensor
    assert torch.equal(received, lazy)


def test_small_batches_are_gathered_and_large_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    images = stored()
    assert type(take(images, ROWS)) is Tensor
    monkeypatch.setattr(batchwise, "WORTH_THREADS", 0)
    large = take(images, ROWS)
    assert type(large) is LazyImages
    assert torch.equal(large, images[ROWS])


def test_sources_hold_the_images() -> None:
    for x in (LazyImages(stored(), ROWS), stored()[ROWS]):
        images, rows = sources(x)
        assert torch.equal(images[rows], x)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "augmentation",
    [
        None,
        Augmentation(flip=True),
        Augmentation(crop_padding=2, flip=True),
        Augmentation(resized_crop=(0.1, 1.0), flip=True),
        Augmentation(resized_crop=(0.1, 1.0), brightness=0.4, contrast=0.4, saturation=0.4),
        Augmentation(resized_crop=(0.1, 1.0), mixup=0.5, cutmix=1.0),
    ],
)
def test_views_are_those_of_the_gathered_images(
    augmentation: Augmentation | None, memory_format: torch.memory_format, small: bool, request: pytest.FixtureRequest
) -> None:
    if not small:
        request.getfixturevalue("always_large")
    images = stored(memory_format)
    view = View(PREPROCESSING, augmentation, 3)
    lazy, whole = (
        view.train(LabelledBatch(x, torch.arange(4) % 3, torch.arange(4)), Generator().manual_seed(1))
        for x in (LazyImages(images, ROWS), images[ROWS])
    )
    assert torch.equal(lazy.x, whole.x)
    assert torch.equal(lazy.y, whole.y)
    assert torch.equal(view.evaluate(LazyImages(images, ROWS)), view.evaluate(images[ROWS]))


@pytest.mark.usefixtures("always_large")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_workers_send_tensors(num_workers: int) -> None:
    dataset = LabelledImages(KeptImages(stored()), torch.arange(7), torch.arange(7))
    sampler = EpochSampler(7, 4)
    loader: Any = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=num_workers)
    if num_workers == 0:
        loader = BatchLoader(dataset, sampler)
    for batch in loader:
        assert type(batch.x) is (Tensor if num_workers else LazyImages)
        assert torch.equal(batch.x, stored()[batch.positions])


@pytest.mark.usefixtures("always_large")
def test_images_in_the_cache_are_read_where_they_lie(tmp_path: Path) -> None:
    for i in range(12):
        path = tmp_path / "images" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)

    def loaded(cache: Path | None) -> Domain:
        domain = Domain("d", ImageFolder(tmp_path / "images"), memory_limit_gib=0.0, cache=cache, num_workers=0)
        domain.load(PREPROCESSING)
        return domain

    mapped, decoded = loaded(tmp_path / "cache"), loaded(None)
    assert isinstance(mapped.datasets["train"].images, MappedImages)
    for found, expected in zip(mapped.train_dataloader(), decoded.train_dataloader(), strict=True):
        assert type(found.x) is LazyImages
        assert type(expected.x) is Tensor
        assert torch.equal(found.x, expected.x)
    train = mapped.datasets["train"]
    assert type(UnlabelledImages(train.images, train.positions)[np.arange(3)].x) is LazyImages
