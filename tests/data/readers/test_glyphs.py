import numpy as np
import pytest
import torch
from torch.nn import functional

from graft.data.readers.glyphs import CHARACTERS, FONTS, Glyphs, affine_grid, font_files, random_affine, render_stencils
from graft.errors import UserError

SMALL = {"num_samples": 200, "num_test_samples": 60}


@pytest.fixture(scope="module")
def stencils() -> torch.Tensor:
    return render_stencils(tuple(CHARACTERS["alphanumeric"]))


def test_every_font_is_there_and_has_every_character(stencils: torch.Tensor) -> None:
    assert all(path.is_file() for path in font_files())
    assert stencils.shape[:3] == (47, len(FONTS), 4)
    ink = stencils[:, :, 1].mean(dim=(2, 3))
    assert ink.min() > 0.01
    for font in range(len(FONTS)):  # a font without a character draws the same box for all it lacks
        flat = stencils[:, font, 1].flatten(1)
        assert len({row.numpy().tobytes() for row in flat}) == 47


def test_strokes_grow_with_thickness(stencils: torch.Tensor) -> None:
    ink = stencils.mean(dim=(3, 4))
    assert torch.all(ink[:, :, 1:] > ink[:, :, :-1])


def test_ink_is_whole_and_centred(stencils: torch.Tensor) -> None:
    border = torch.cat([stencils[..., 0, :], stencils[..., -1, :], stencils[..., :, 0], stencils[..., :, -1]], dim=-1)
    assert border.max() == 0
    rows = (stencils[:, :, 1].amax(dim=3) > 0.5).float()
    middle = (rows * torch.arange(48.0)).sum(dim=2) / rows.sum(dim=2)
    assert (middle - 23.5).abs().max() < 4


def test_images_are_spread_over_classes_and_reproducible() -> None:
    raw, again = Glyphs(**SMALL).read(), Glyphs(**SMALL).read()
    assert raw.test is not None
    assert isinstance(raw.train.samples, np.ndarray)
    assert raw.train.samples.shape == (200, 32, 32)
    assert raw.train.samples.dtype == np.uint8
    counts = np.bincount(raw.train.labels, minlength=47)
    assert counts.max() - counts.min() <= 1
    assert raw.fingerprint == again.fingerprint
    assert len({image.tobytes() for image in raw.train.samples} & {image.tobytes() for image in raw.test.samples}) == 0


def test_the_global_generator_is_neither_used_nor_moved() -> None:
    first = Glyphs(**SMALL).read().fingerprint
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert Glyphs(**SMALL).read().fingerprint == first
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"size": 28}, {"characters": "digits"}, {"num_samples": 201}])
def test_every_argument_matters(changes: dict[str, object]) -> None:
    assert Glyphs(**SMALL | changes).read().fingerprint != Glyphs(**SMALL).read().fingerprint  # type: ignore[arg-type]


def test_more_test_images_leave_the_training_images_alone() -> None:
    one, other = Glyphs(**SMALL).read(), Glyphs(**SMALL | {"num_test_samples": 90}).read()
    assert np.array_equal(one.train.samples, other.train.samples)


def test_every_image_can_be_seen() -> None:
    images = Glyphs(**SMALL).read().train.samples
    assert isinstance(images, np.ndarray)
    assert np.all(images.reshape(len(images), -1).max(axis=1) > 90)
    assert np.median(images) < 40


def test_the_grid_is_torchs_own() -> None:
    theta = random_affine(5, torch.Generator().manual_seed(0))
    expected = functional.affine_grid(theta, [5, 1, 12, 12], align_corners=False)
    torch.testing.assert_close(affine_grid(theta, 12), expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"characters": "digit"}, "did you mean 'digits'"),
        ({"num_samples": 20}, "num_samples=20: expected at least one for each of 47 classes"),
        ({"size": 4}, "size=4"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Glyphs(**settings).read()  # type: ignore[arg-type]
