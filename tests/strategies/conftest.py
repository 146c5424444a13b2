"""A network small enough to write down, with everything that makes freezing hard."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from graft.data.preprocessing import Preprocessing
from graft.models.backbones.base import Overrides, SequentialBackbone
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network
from graft.strategies.phases import Strategy


def block(in_channels: int, out_channels: int) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(in_channels, out_channels, 3, padding=1),
        bn=nn.BatchNorm2d(out_channels),
        relu=nn.ReLU(),
        drop=nn.Dropout(0.5),
    )
    return nn.Sequential(layers)


class TinyBackbone(SequentialBackbone):
    def __init__(self) -> None:
        last = block(2, 4)
        last.add_module("pool", nn.AdaptiveAvgPool2d(1))
        last.add_module("flatten", nn.Flatten())
        groups = {"stem": block(1, 2), "stage1": block(2, 2), "stage2": last}
        super().__init__(groups, 4, Preprocessing(size=6, mean=(0.5,), std=(0.5,)), Overrides())


@pytest.fixture
def tiny() -> Network:
    torch.manual_seed(0)
    return Network(TinyBackbone(), IdentityMapping(4), LinearHead(4, 3))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 1, 6, 6, generator=generator), torch.arange(8) % 3


@pytest.fixture
def one_phase() -> Callable[..., Strategy]:
    """A strategy of one phase from its rules."""

    def make(rules: dict[str, Any], **phase: Any) -> Strategy:
        return Strategy("test", [{"name": "only", "rules": rules, **phase}])

    return make
