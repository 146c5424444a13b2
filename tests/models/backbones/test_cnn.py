import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import UserError
from graft.models.backbones.cnn import Cnn, HalvingMaxPool


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


@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.booleans())
def test_halving_pool_is_torchs_own(channels: int, height: int, width: int, channels_last: bool) -> None:
    x = torch.randint(-3, 4, (2, channels, height, width)).float()  # with many ties
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    expected = torch.nn.functional.max_pool2d(x, 2)
    trained = x.clone().requires_grad_()
    assert torch.equal(HalvingMaxPool()(x), expected)
    assert torch.equal(HalvingMaxPool()(trained), expected)
    with torch.no_grad():
        assert torch.equal(HalvingMaxPool()(trained), expected)


def test_halving_pool_keeps_what_is_not_a_number() -> None:
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 2] = torch.nan
    assert HalvingMaxPool()(x).isnan().tolist() == [[[[False, True], [False, False]]]]
