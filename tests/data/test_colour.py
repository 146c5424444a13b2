"""Random colours, against what torchvision makes of the same factors."""

import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as reference

from graft.batch import LabelledBatch
from graft.data.augment import Augmentation
from graft.data.colour import draw_factors, jitter_colour
from graft.data.preprocessing import Preprocessing
from graft.data.view import View

STRENGTH = 0.6


def images(channels: int = 3) -> Tensor:
    return torch.randint(256, (6, channels, 5, 7), generator=Generator().manual_seed(0), dtype=torch.uint8)


def jittered(x: Tensor, **strengths: float) -> Tensor:
    chosen = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0} | strengths
    return jitter_colour(x, **chosen, generator=Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_each_change_is_torchvisions(kind: str) -> None:
    x = images()
    factors = draw_factors(len(x), STRENGTH, Generator().manual_seed(1)).flatten().tolist()
    change = getattr(reference, f"adjust_{kind}")
    expected = torch.stack([change(one.float() / 255, factor) for one, factor in zip(x, factors, strict=True)]) * 255
    torch.testing.assert_close(jittered(x, **{kind: STRENGTH}), expected, rtol=0, atol=0.02)


def test_factors_lie_around_one_and_differ_between_images() -> None:
    factors = draw_factors(1000, 1.5, Generator().manual_seed(0))
    assert 0 <= factors.min() < 0.1
    assert 2.4 < factors.max() <= 2.5
    assert len(factors.unique()) > 900


def test_nothing_is_drawn_where_all_is_off() -> None:
    x = images()
    assert torch.equal(jittered(x), x.float())


def test_grey_images_have_no_saturation() -> None:
    x = images(channels=1)
    assert torch.equal(jittered(x, saturation=0.5), x.float())


def test_a_view_changes_colours_in_training_alone() -> None:
    view = View(Preprocessing(5, (0.5,) * 3, (0.5,) * 3), Augmentation(brightness=0.5), num_classes=2)
    batch = LabelledBatch(images()[:, :, :, :5], torch.zeros(6, dtype=torch.long), torch.arange(6))
    plain = view.evaluate(batch.x)
    first, again = (view.train(batch, Generator().manual_seed(3)).x for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)
