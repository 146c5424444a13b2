import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graft.data.augment import Augmentation, mix
from graft.data.batchwise import Cut
from graft.data.crops import centre_crop, index_windows, random_crop, random_resized_crop, slide_windows
from graft.errors import UserError


def everywhere(cut: Cut, x: Tensor, size: int) -> Tensor:
    """What is cut from all images."""
    crops = torch.empty(*x.shape[:2], size, size, dtype=x.dtype)
    cut(slice(None), crops)
    return crops


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distinct(num: int, side: int) -> Tensor:
    """Images in which no two pixels are alike, none is 0, and channels tell rows from columns."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    one = torch.stack([rows + 1, columns + 1]).to(torch.uint8)
    return one.expand(num, -1, -1, -1)


@settings(max_examples=30)
@given(side=st.integers(8, 20), size=st.integers(4, 8), padding=st.integers(0, 4), flip=st.booleans())
def test_a_random_crop_is_a_window_of_the_padded_image(side: int, size: int, padding: int, flip: bool) -> None:
    x = distinct(6, side)
    crops = everywhere(random_crop(x, size, padding, torch.full((6,), flip), generator()), x, size)
    assert crops.shape == (6, 2, size, size)
    windows = torch.nn.functional.pad(x[0], [padding] * 4).unfold(1, size, 1).unfold(2, size, 1).permute(1, 2, 0, 3, 4)
    for crop in crops.flip(3) if flip else crops:
        assert (windows == crop).flatten(2).all(dim=2).any()


@settings(max_examples=60)
@given(
    data=st.data(),
    size=st.integers(1, 9),
    more=st.integers(0, 3),
    padding=st.integers(0, 12),
    channels=st.integers(1, 3),
)
def test_a_processor_cuts_what_other_devices_do(
    data: st.DataObject, size: int, more: int, padding: int, channels: int
) -> None:
    side, draws = size + more, generator(data.draw(st.integers(0, 99)))
    x = torch.randint(1, 256, (5, channels, side, side), generator=draws, dtype=torch.uint8)
    x = x.to(memory_format=data.draw(st.sampled_from([torch.contiguous_format, torch.channels_last])))
    tops, lefts = torch.randint(side + 2 * padding - size + 1, (2, 5), generator=draws)
    flip = torch.rand(5, generator=draws) < 0.5
    found = slide_windows(x.numpy(), size, padding, tops.numpy(), lefts.numpy(), flip.numpy())
    assert torch.equal(torch.from_numpy(found), index_windows(x, size, padding, tops, lefts, flip))


def test_random_crops_go_everywhere_and_half_are_mirrored() -> None:
    flip = torch.arange(2000) % 2 == 0
    x = distinct(2000, 8)
    crops = everywhere(random_crop(x, 8, 2, flip, generator()), x, 8)
    tops = crops[:, 0].amax(dim=2)[:, 0]  # the row of the image at the crop's top
    assert torch.bincount(tops.long(), minlength=4)[:4].min() > 200
    mirrored = (crops[:, 1, 4].long().diff(dim=1) < 0).any(dim=1) & (crops[:, 1, 4, 3] > crops[:, 1, 4, 4])
    assert torch.equal(mirrored, flip)


def test_a_resized_crop_of_one_colour_is_that_colour() -> None:
    x = torch.full((4, 3, 12, 12), 7.0)
    crops = everywhere(random_resized_crop(x, 9, (0.2, 1.0), torch.arange(4) % 2 == 0, generator()), x, 9)
    torch.testing.assert_close(crops, torch.full((4, 3, 9, 9), 7.0))


def test_resized_crops_cover_the_shares_asked_for_and_stay_inside() -> None:
    ramp = torch.linspace(0, 1, 64)
    x = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64)]).expand(500, -1, -1, -1)
    flip = torch.arange(500) % 2 == 0
    crops = everywhere(random_resized_crop(x, 32, (0.3, 0.6), flip, generator()), x, 32)
    widths, heights = (
        (crops[:, 0].amax(dim=(1, 2)) - crops[:, 0].amin(dim=(1, 2))),
        (crops[:, 1].amax(dim=(1, 2)) - crops[:, 1].amin(dim=(1, 2))),
    )
    areas = widths * heights * (32 / 31) ** 2  # from the centres of the outer pixels to their edges
    assert 0.25 < areas.min() < 0.36
    assert 0.54 < areas.max() < 0.66
    mirrored = crops[:, 0, 0, 0] > crops[:, 0, 0, -1]
    assert torch.equal(mirrored, flip)


def test_the_centre_crop_is_torchvisions() -> None:
    from torchvision.transforms.v2.functional import center_crop

    for side, size in ((10, 4), (256, 224), (8, 8)):
        assert torch.equal(centre_crop(distinct(1, side), size), center_crop(distinct(1, side), [size, size]))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_labels_are_mixed_as_the_images_are(mixup: float, cutmix: float) -> None:
    num_classes, y = 5, torch.arange(40) % 5
    x = torch.nn.functional.one_hot(y, num_classes).float()[:, :, None, None].expand(-1, -1, 16, 16)
    for seed in range(20):
        mixed, probabilities = mix(x, y, num_classes, mixup, cutmix, generator(seed))
        # Each image is filled with its own class, so the share of pixels is the share of the label.
        torch.testing.assert_close(mixed.mean(dim=(2, 3)), probabilities, atol=1e-5, rtol=0)
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(40))


def test_mixing_weights_follow_their_distribution() -> None:
    x, y = torch.eye(2)[:, :, None, None], torch.arange(2)
    weights = []
    for seed in range(400):
        _, probabilities = mix(x, y, 2, 0.5, 0.0, generator(seed))
        weights.append(float(probabilities[0, 0]))
    swapped = [weight for weight in weights if weight < 1]  # a permutation of two that changes nothing mixes nothing
    assert 150 < len(swapped) < 250
    assert abs(np.mean(swapped) - 0.5) < 0.06
    assert abs(np.var(swapped) - 0.125) < 0.03  # of Beta(0.5, 0.5)


def test_every_draw_is_from_the_generator() -> None:
    x = torch.randint(256, (8, 3, 12, 12), generator=generator(), dtype=torch.uint8)
    y, flip = torch.arange(8) % 3, torch.zeros(8, dtype=torch.bool)

    def everything(seed: int) -> list[Tensor]:
        draws = generator(seed)
        return [
            everywhere(random_crop(x, 8, 2, flip, draws), x, 8),
            everywhere(random_resized_crop(x, 8, (0.3, 1.0), flip, draws), x, 8),
            *mix(x / 255, y, 3, 1.0, 0.0, draws),
            *mix(x / 255, y, 3, 0.0, 1.0, draws),
        ]

    torch.manual_seed(0)
    first = everything(1)
    torch.manual_seed(9)
    np.random.seed(9)  # noqa: NPY002
    state = torch.get_rng_state()
    assert all(map(torch.equal, first, everything(1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(map(torch.equal, first, everything(2)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop_padding": -1}, "crop_padding=-1"),
        ({"mixup": -0.5}, "mixup=-0.5"),
        ({"resized_crop": (0.8, 0.5)}, "resized_crop"),
        ({"resized_crop": (0.0, 0.5)}, "resized_crop"),
        ({"resized_crop": (0.5, 1.0), "crop_padding": 4}, "give one of the two"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Augmentation(**changes)  # type: ignore[arg-type]


def test_a_list_from_yaml_is_as_good_as_a_tuple() -> None:
    assert Augmentation(resized_crop=[0.5, 1.0]) == Augmentation(resized_crop=(0.5, 1.0))  # type: ignore[arg-type]
    assert not Augmentation().any
    assert Augmentation(flip=True).any
