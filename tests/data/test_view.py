import pytest
import torch
from torchvision.transforms import v2

from graft.batch import LabelledBatch
from graft.data import batchwise
from graft.data.augment import Augmentation
from graft.data.preprocessing import Preprocessing
from graft.data.view import View

PREPROCESSING = Preprocessing(24, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), resize=32)


def batch(num: int = 8) -> LabelledBatch:
    x = torch.randint(0, 256, (num, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return LabelledBatch(x, torch.arange(num) % 4, torch.arange(num))


def train(augmentation: Augmentation | None, seed: int = 0) -> LabelledBatch:
    return View(PREPROCESSING, augmentation, 4).train(batch(), torch.Generator().manual_seed(seed))


def test_evaluation_is_what_torchvision_does() -> None:
    reference = v2.Compose(
        [
            v2.CenterCrop(24),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(PREPROCESSING.mean), list(PREPROCESSING.std)),
        ]
    )
    torch.testing.assert_close(View(PREPROCESSING, None, 4).evaluate(batch().x), reference(batch().x))


def test_without_augmentation_training_sees_the_evaluation_view() -> None:
    found = train(None)
    assert torch.equal(found.x, View(PREPROCESSING, None, 4).evaluate(batch().x))
    assert torch.equal(found.y, batch().y)
    assert torch.equal(found.positions, batch().positions)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(flip=True),
        Augmentation(crop_padding=4),
        Augmentation(resized_crop=(0.3, 1.0)),
        Augmentation(mixup=0.2),
        Augmentation(cutmix=1.0),
        Augmentation(crop_padding=2, flip=True, mixup=0.2, cutmix=1.0),
    ],
)
def test_views_are_a_function_of_the_generator(augmentation: Augmentation) -> None:
    first, again, other = train(augmentation, 1), train(augmentation, 1), train(augmentation, 2)
    assert first.x.shape == (8, 3, 24, 24)
    assert first.x.dtype == torch.float32
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.y, again.y)
    assert not torch.equal(first.x, other.x)
    mixes = bool(augmentation.mixup or augmentation.cutmix)
    assert first.y.shape == ((8, 4) if mixes else (8,))


def test_flips_mirror_the_evaluation_view() -> None:
    fixed = View(PREPROCESSING, None, 4).evaluate(batch().x)
    found = train(Augmentation(flip=True)).x
    kept, mirrored = (found == fixed).flatten(1).all(dim=1), (found == fixed.flip(3)).flatten(1).all(dim=1)
    assert torch.all(kept ^ mirrored)
    assert kept.any()
    assert mirrored.any()


def test_the_default_float_type_is_given() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert train(Augmentation(mixup=0.5)).x.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_batches_are_not_changed_in_place() -> None:
    given = batch()
    before = given.x.clone()
    view = View(PREPROCESSING, Augmentation(crop_padding=2, flip=True, cutmix=1.0), 4)
    view.train(given, torch.Generator())
    assert torch.equal(given.x, before)
    floats = before.float()
    view.evaluate(floats)
    assert torch.equal(floats, before.float())


@pytest.mark.parametrize(
    "augmentation",
    [None, Augmentation(flip=True), Augmentation(crop_padding=4, flip=True), Augmentation(resized_crop=(0.1, 1.0))],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_large_batches_are_cut_as_small_ones_are(
    augmentation: Augmentation | None, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(augmentation).x
    monkeypatch.setattr(batchwise, "WORTH_THREADS", 0)
    monkeypatch.setattr(batchwise, "PIECE", 3000)
    given = batch()
    given = given._replace(x=given.x.contiguous(memory_format=memory_format))
    in_pieces = View(PREPROCESSING, augmentation, 4).train(given, torch.Generator().manual_seed(0)).x
    assert torch.equal(in_pieces, whole)
    assert torch.equal(batchwise.gather(given.x, torch.tensor([5, 0, 5])), given.x[[5, 0, 5]])
