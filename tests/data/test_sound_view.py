from dataclasses import replace

import numpy as np
import pytest
import torch
from sounds import tone
from torch import Generator

from graft.batch import LabelledBatch
from graft.data.sound_augment import SoundAugmentation, masked, noisy, shifted
from graft.data.sound_preprocessing import SoundPreprocessing, SpectrogramPreprocessing
from graft.data.sound_view import SoundView
from graft.data.waveform_preprocessing import WaveformPreprocessing
from graft.errors import UserError

HOW = SpectrogramPreprocessing(32, (0.5,) * 3, (0.25,) * 3, 8000, 0.5)
FORMS = [HOW, WaveformPreprocessing(8000, normalised=True, shortest=400, seconds=0.5)]


def sounds(num: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.stack([tone(300 * (i + 1), 8000, 0.5) for i in range(num)]))


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_the_fixed_view_is_an_image_of_the_size_that_the_backbone_wants() -> None:
    view = SoundView(HOW, None, 2)
    x = view.evaluate(sounds())
    assert x.shape == (4, 3, 32, 32)
    assert x.dtype == torch.float32
    assert torch.equal(x[:, 0], x[:, 2])
    assert (x.min(), x.max()) == (-2, 2)
    assert torch.equal(x, view.unmixed(sounds(), seeded()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(x, view.evaluate(sounds()))


def test_normalisation_is_of_each_channel() -> None:
    x = SoundView(replace(HOW, mean=(0.5, 0.0), std=(0.25, 1.0)), None, 2).evaluate(sounds())
    assert torch.allclose(x[:, 0] * 0.25 + 0.5, x[:, 1], atol=1e-6)


EVERYTHING = {"shift": 0.1, "noise": (10, 30), "frequency_masks": 2, "time_masks": 2, "mixup": 0.4}


@pytest.mark.parametrize("how", FORMS)
def test_every_draw_is_from_the_given_generator(how: SoundPreprocessing) -> None:
    view = SoundView(how, SoundAugmentation(**EVERYTHING), 2)  # type: ignore[arg-type]
    batch = LabelledBatch(sounds(), torch.tensor([0, 1, 0, 1]), torch.arange(4), None)
    state = torch.get_rng_state()
    first, again, other = (view.train(batch, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.y, again.y)
    assert not torch.equal(first.x, other.x)
    assert first.x.shape == (4, *how.shape)
    assert first.y.shape == (4, 2)
    assert torch.allclose(first.y.sum(1), torch.ones(4))


@pytest.mark.parametrize("how", FORMS)
@pytest.mark.parametrize("name", ["shift", "noise", "frequency_masks", "time_masks"])
def test_each_part_changes_the_view_alone(name: str, how: SoundPreprocessing) -> None:
    view = SoundView(how, SoundAugmentation(**{name: EVERYTHING[name]}), 2)  # type: ignore[arg-type]
    assert not torch.equal(view.unmixed(sounds(), seeded()), view.evaluate(sounds()))


def test_a_shift_moves_the_sound_and_leaves_silence() -> None:
    x = torch.arange(1, 101).repeat(200, 1)
    y = shifted(x, 10, seeded())
    found = set()
    for row in y:
        by = int((row == 1).nonzero()[0]) if 1 in row else 1 - int(row[0])
        found.add(by)
        expected = torch.zeros(100, dtype=row.dtype)
        expected[max(by, 0) : 100 + min(by, 0)] = x[0, max(-by, 0) : 100 - max(by, 0)]
        assert torch.equal(row, expected)
    assert found == set(range(-10, 11))


def test_noise_has_the_ratio_that_was_asked_for() -> None:
    x = torch.stack([torch.full((20000,), 100.0), torch.full((20000,), 1000.0)])
    power = (noisy(x, (20, 20), seeded()) - x).square().mean(1)
    assert torch.allclose(10 * torch.log10(x.square().mean(1) / power), torch.tensor(20.0), atol=0.3)
    assert not noisy(torch.zeros(1, 10), (0, 0), seeded()).any()


@pytest.mark.parametrize("axis", [1, 2])
def test_masks_are_stretches_of_the_mean(axis: int) -> None:
    x = torch.rand(300, 40, 40, generator=seeded())
    y = masked(x, 1, 0.2, axis, seeded(1))
    changed = (y != x).any(3 - axis)  # [n, places]
    lengths = changed.sum(1)
    assert set(lengths.tolist()) == set(range(9)), "from 0 to a fifth of 40"
    assert changed.any(0).all()
    for row, was, now in zip(changed, x, y, strict=True):
        places = row.nonzero().flatten().tolist()
        assert places == list(range(places[0], places[-1] + 1)) if places else True
        assert torch.allclose(now.movedim(axis - 1, 0)[places], was.mean())


def test_no_masks_change_nothing() -> None:
    x = torch.rand(2, 8, 8)
    assert torch.equal(masked(x, 0, 0.2, 1, seeded()), x)


@pytest.mark.parametrize(
    "settings",
    [
        {"shift": -1},
        {"mixup": -0.1},
        {"time_masks": -1},
        {"time_width": 0},
        {"frequency_width": 1.5},
        {"noise": (3, 1)},
    ],
)
def test_values_that_cannot_be(settings: dict[str, float]) -> None:
    [name] = settings
    with pytest.raises(UserError, match=f"augmentation.{name}"):
        SoundAugmentation(**settings)  # type: ignore[arg-type]
