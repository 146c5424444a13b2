"""The backbones of adaptation between digits."""

import pytest
import torch

from graft.errors import UserError
from graft.models.backbones.base import Backbone
from graft.models.backbones.dtn import DTN
from graft.models.backbones.lenet import LeNet


def widths(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    weights = {name: parameter for name, parameter in backbone.named_parameters() if parameter.ndim > 1}
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def test_widths_are_those_of_the_published_code() -> None:
    assert widths(LeNet()) == {
        "stem.conv1.weight": (20, 1, 5, 5),
        "stage1.conv2.weight": (50, 20, 5, 5),
        "bottleneck.bottleneck.weight": (256, 50 * 4 * 4),
    }
    assert widths(DTN()) == {
        "stem.conv1.weight": (64, 3, 5, 5),
        "stage1.conv2.weight": (128, 64, 5, 5),
        "stage2.conv3.weight": (256, 128, 5, 5),
        "bottleneck.bottleneck.weight": (256, 256 * 4 * 4),
    }


@pytest.mark.parametrize("make", [LeNet, DTN])
def test_features_are_normalised_and_dropped_while_training(make: type[Backbone]) -> None:
    backbone = make()
    size, channels = backbone.preprocessing.size, backbone.preprocessing.channels
    features = backbone(torch.randn(64, channels, size, size, generator=torch.Generator().manual_seed(0)))
    dropped = features == 0
    assert 0.4 < dropped.float().mean() < 0.6
    kept = (features.square().sum() / (~dropped).sum()).item()  # doubled where they are kept
    assert kept == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize(("make", "size"), [(LeNet, 16), (LeNet, 32), (DTN, 8), (DTN, 28), (DTN, 33)])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_inputs(make: type[LeNet] | type[DTN], size: int, channels: int) -> None:
    backbone = make(channels=channels, size=size).eval()
    assert backbone(torch.randn(2, channels, size, size)).shape == (2, 256)


@pytest.mark.parametrize(("make", "least"), [(LeNet, 16), (DTN, 8)])
@pytest.mark.parametrize("size", [7, 0, -1])
def test_too_small(make: type[LeNet] | type[DTN], least: int, size: int) -> None:
    with pytest.raises(UserError, match=rf"backbone\.size={size}: .*at least {least} pixels"):
        make(size=size)
