"""Rotations: the same as torchvision's for a given angle, and in training views."""

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import rotate as reference

from graft.batch import LabelledBatch
from graft.data.augment import Augmentation
from graft.data.preprocessing import Preprocessing
from graft.data.rotation import rotate, rotate_randomly
from graft.data.view import View
from graft.errors import UserError


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (3, 3, 20, 31)])
def test_it_is_torchvisions_rotation(shape: tuple[int, ...]) -> None:
    x, angles = images(*shape), torch.tensor([-33.0, 0.0, 10.0])
    expected = torch.stack(
        [reference(each, float(angle), InterpolationMode.BILINEAR) for each, angle in zip(x, angles, strict=True)]
    )
    torch.testing.assert_close(rotate(x, angles), expected, rtol=0, atol=1e-2)


def test_a_quarter_turn_moves_every_pixel_to_its_place() -> None:
    x = images(1, 2, 8, 8)
    torch.testing.assert_close(rotate(x, torch.tensor([90.0])), x.rot90(1, (2, 3)), rtol=0, atol=1e-3)


def test_angles_are_drawn_within_the_bounds_from_the_generator() -> None:
    x = images(200, 1, 9, 9)
    first, again = (rotate_randomly(x, 5.0, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert len({float(each[0, 4, 0]) for each in first - x}) > 100
    centre = x[:, :, 4, 4]
    torch.testing.assert_close(first[:, :, 4, 4], centre, rtol=0, atol=1e-2)


def test_training_views_are_rotated_and_evaluation_is_not() -> None:
    view = View(Preprocessing(8, (0.0,), (1.0,)), Augmentation(rotation=20.0), 2)
    white, labels = torch.full((4, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    batch = LabelledBatch(white, labels, torch.arange(4))
    seen = view.train(batch, torch.Generator().manual_seed(0)).x
    assert (seen[:, :, 0, 0] < 0.9).any()
    torch.testing.assert_close(seen[:, :, 4, 4], torch.ones(4, 1))
    assert torch.equal(view.evaluate(batch.x), torch.ones(4, 1, 8, 8))


def test_a_negative_angle_is_refused() -> None:
    with pytest.raises(UserError, match=r"augmentation\.rotation=-1"):
        Augmentation(rotation=-1)
