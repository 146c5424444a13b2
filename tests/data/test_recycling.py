"""Memory is used again, and never while something may still read it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from graft.batch import LabelledBatch
from graft.data import recycling
from graft.data.augment import Augmentation
from graft.data.preprocessing import Preprocessing
from graft.data.recycling import empty
from graft.data.view import View

SHAPE = (4, 3, 5, 5)


@pytest.fixture(autouse=True)
def nothing_is_free(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(recycling, "WORTH_RECYCLING", 0)
    recycling._free.clear()
    yield
    recycling._free.clear()


def made(value: float) -> Tensor:
    array = empty(SHAPE, np.float32)
    array[:] = value
    return torch.from_numpy(array)


def test_what_is_gone_is_used_again_for_what_is_about_as_large() -> None:
    first = made(1)
    place = first.data_ptr()
    del first
    smaller = empty((3, 3, 5, 5), np.float32)
    assert smaller.ctypes.data == place
    del smaller
    assert empty((1, 3, 5, 5), np.float32).ctypes.data != place, "a small array would hold much memory"
    assert empty((4 * 3 * 5 * 5 * 4,), np.uint8).ctypes.data == place


@pytest.mark.parametrize(
    "alias",
    [
        lambda x: x[1:, 0],
        lambda x: x.detach(),
        lambda x: x.numpy(),
        lambda x: x.numpy()[2],
        lambda x: np.asarray(x).ravel()[3:],
        lambda x: x.untyped_storage(),
        lambda x: memoryview(x.numpy()),
        lambda x: torch.from_dlpack(x),
        lambda x: (x * torch.ones((), requires_grad=True)).sum(),  # its backward needs x
    ],
)
def test_what_a_caller_can_see_is_left_alone(alias: object) -> None:
    first = made(1)
    place = first.data_ptr()
    held = alias(first)  # type: ignore[operator]
    del first
    assert all(made(2).data_ptr() != place for _ in range(3))
    del held
    assert place in {block.ctypes.data for block in recycling._free}


def test_views_that_are_kept_stay_as_they_were() -> None:
    view = View(Preprocessing(8, (0.5,) * 3, (0.5,) * 3), Augmentation(crop_padding=2, flip=True), num_classes=2)
    x = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = LabelledBatch(x, torch.zeros(6, dtype=torch.long), torch.arange(6))
    kept = [view.train(batch, torch.Generator().manual_seed(seed)).x for seed in range(8)]
    again = [view.train(batch, torch.Generator().manual_seed(seed)).x.clone() for seed in range(8)]
    assert all(map(torch.equal, kept, again))


def test_little_is_kept_for_later() -> None:
    arrays = [empty(SHAPE, np.float32) for _ in range(20)]
    del arrays
    assert len(recycling._free) == recycling._free.maxlen
