import pytest
import torch

from graft.errors import UserError
from graft.models.backbones.cnn import Cnn


def test_widths_are_those_of_the_tutorial() -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in Cnn().named_parameters() if name.endswith("weight")}
    assert shapes == {
        "stem.conv1.weight": (6, 3, 5, 5),
        "stage1.conv2.weight": (16, 6, 5, 5),
        "stage2.fc1.weight": (120, 400),
        "stage3.fc2.weight": (84, 120),
    }


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 16), (3, 33)])
def test_other_inputs(channels: int, size: int) -> None:
    cnn = Cnn(channels=channels, size=size)
    assert (cnn.preprocessing.channels, cnn.preprocessing.size) == (channels, size)
    assert cnn(torch.randn(2, channels, size, size)).shape == (2, 84)


@pytest.mark.parametrize("size", [15, 0, -1])
def test_too_small(size: int) -> None:
    with pytest.raises(UserError, match=rf"backbone\.size={size}.*16"):
        Cnn(size=size)
