from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graft.batch import LabelledBatch
from graft.data import batchwise, compiled, kernels
from graft.data.augment import Augmentation
from graft.data.crops import Boxes, Windows
from graft.data.lazy import LazyImages
from graft.data.preprocessing import Preprocessing
from graft.data.view import View

LAYOUTS = ("contiguous", "channels last", "grey that stands for colour", "lazy")


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiled, "_made", 0)
    compiled.load_kernels.cache_clear()
    yield
    compiled.load_kernels.cache_clear()


def images(num: int, channels: int, height: int, width: int, layout: str, rng: np.random.Generator) -> Tensor:
    """Extremes are frequent: rounding errors show where sums leave 0..255."""
    pixels = rng.choice(np.array([0, 1, 127, 128, 254, 255, *range(256)], np.uint8), (num, channels, height, width))
    x = torch.from_numpy(pixels)
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "grey that stands for colour":
        return x[:, :1].expand(-1, channels, -1, -1)
    return LazyImages(x, torch.from_numpy(rng.integers(0, num, num))) if layout == "lazy" else x


def both(cut: Boxes | Windows, size: int, channels: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Normalised crops: by compiled code, and by torch and NumPy."""
    scale, shift = (torch.from_numpy(rng.normal(size=channels).astype(np.float32)) for _ in range(2))
    shape = (len(cut.x), channels, size, size)
    found = compiled.run(kernels, cut, shape, scale.numpy(), shift.numpy())
    whole = (values.view(-1, 1, 1).repeat(1, size, size) for values in (scale, shift))
    return found, batchwise.scale_and_shift(cut, shape, *whole)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.integers(1, 256),
    channels=st.sampled_from([1, 3]),
    layout=st.sampled_from(LAYOUTS),
)
def test_boxes_are_resampled_bit_for_bit_as_torch_does(
    seed: int, height: int, width: int, size: int, channels: int, layout: str
) -> None:
    rng = np.random.default_rng(seed)
    x = images(2, channels, height, width, layout, rng)
    tops, lefts = rng.integers(0, height, 2), rng.integers(0, width, 2)
    boxes = np.stack([tops, lefts, rng.integers(1, height - tops + 1), rng.integers(1, width - lefts + 1)], axis=1)
    cut = Boxes(x, torch.from_numpy(boxes), size, torch.tensor([False, True]))
    assert torch.equal(*both(cut, size, channels, rng))


def test_every_length_of_a_canvas_is_resampled_as_torch_does() -> None:
    rng = np.random.default_rng(0)
    for length in range(1, 257):
        for shape in ((length, 3), (3, length)):
            cut = Boxes(
                images(1, 3, *shape, "contiguous", rng), torch.tensor([[0, 0, *shape]]), 224, torch.tensor([False])
            )
            assert torch.equal(*both(cut, 224, 3, rng)), shape


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 40),
    more=st.integers(0, 8),
    padding=st.integers(0, 45),
    channels=st.sampled_from([1, 3]),
    layout=st.sampled_from(LAYOUTS),
)
def test_windows_are_cut_bit_for_bit_as_numpy_does(
    seed: int, size: int, more: int, padding: int, channels: int, layout: str
) -> None:
    rng = np.random.default_rng(seed)
    x = images(5, channels, size + more, size + more, layout, rng)
    tops, lefts = rng.integers(0, more + 2 * padding + 1, (2, 5))
    cut = Windows(x, size, padding, tops, lefts, rng.random(5) < 0.5)
    assert torch.equal(*both(cut, size, channels, rng))


def views(augmentation: Augmentation) -> Tensor:
    x = images(8, 3, 32, 32, "contiguous", np.random.default_rng(0))
    batch = LabelledBatch(x, torch.arange(8) % 4, torch.arange(8))
    view = View(Preprocessing(24, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), resize=32), augmentation, 4)
    return view.train(batch, torch.Generator().manual_seed(0)).x


@pytest.mark.parametrize("threads_from", [0, batchwise.WORTH_THREADS])
@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(crop_padding=4, flip=True),
        Augmentation(resized_crop=(0.1, 1.0)),
        Augmentation(resized_crop=(0.1, 1.0), flip=True, mixup=0.2),
        Augmentation(resized_crop=(0.1, 1.0), brightness=0.2),
    ],
)
def test_views_are_the_same_before_and_after_loading(
    augmentation: Augmentation, threads_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = views(augmentation)
    monkeypatch.setattr(compiled, "WORTH_LOADING", 0)
    monkeypatch.setattr(batchwise, "WORTH_THREADS", threads_from)
    assert torch.equal(views(augmentation), before)


def test_compiled_code_is_loaded_after_so_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "WORTH_LOADING", 300)
    assert [compiled.kernels_for((2, 3, 5, 5)) for _ in range(3)] == [None, kernels, kernels]


def test_float_images_are_left_to_torch() -> None:
    boxes = torch.tensor([[0, 0, 4, 4]])
    assert not compiled.can_be_compiled(Boxes(torch.rand(1, 3, 4, 4), boxes, 4, torch.tensor([False])))


def test_torch_serves_where_numba_is_missing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    assert compiled.load_kernels() is None
    assert not caplog.records


def test_a_numba_that_cannot_be_imported_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str) -> ModuleType:
        raise ImportError("Numba needs NumPy 2.4 or less")

    monkeypatch.setattr(compiled, "import_module", fail)
    assert compiled.load_kernels() is None
    assert "Numba needs NumPy 2.4 or less" in caplog.text


def test_another_way_of_resampling_is_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = torch.nn.functional.interpolate
    monkeypatch.setattr(
        compiled.functional, "interpolate", lambda x, size, mode: usual(x, size, mode=mode, antialias=True)
    )
    assert compiled.load_kernels() is None
    assert "another way" in caplog.text
