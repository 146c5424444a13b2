"""Residual bottleneck adapters."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from graft.models.adapters.base import LayerAdapter
from graft.models.adapters.checks import check_at_least_one
from graft.models.adapters.layers import replace_module
from graft.models.backbones.base import Backbone


@dataclass(frozen=True, kw_only=True)
class Bottleneck(LayerAdapter):
    """h + U relu(D h) after each layer, with D into r features or channels and U back, zero at the start.

    After linear layers as Houlsby et al. (ICML 2019, section 2.1), after convolutions by 1x1 ones as Rebuffi et al.
    (NeurIPS 2017), whose adapters stand in series too. It cannot be merged into the layer.

    Args:
        rank: r.

    Raises:
        UserError: a rank below 1.
    """

    rank: int = 8

    def __post_init__(self) -> None:
        check_at_least_one(self.name, "rank", self.rank)

    def refusal(self, layer: nn.Module, num_axes: int) -> str | None:
        """None: every layer has outputs."""
        return None

    def _wrap(self, backbone: Backbone, layers: Mapping[str, nn.Module]) -> None:
        for path, layer in layers.items():
            replace_module(backbone, path, BottleneckAfter(layer, self.rank))


class BottleneckAfter(nn.Module):
    """A linear layer or convolution and the bottleneck on its outputs."""

    def __init__(self, layer: nn.Module, rank: int) -> None:
        super().__init__()
        self.base_layer = layer
        self.down, self.up = _pair(layer, rank)
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer makes of x, and the bottleneck's share."""
        y: Tensor = self.base_layer(x)
        changed: Tensor = y + self.up(self.down(y).relu())
        return changed


def _pair(layer: nn.Module, rank: int) -> tuple[nn.Module, nn.Module]:
    """Down to `rank` and up again."""
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(layer.out_channels, rank, 1), nn.Conv2d(rank, layer.out_channels, 1)
    assert isinstance(layer, nn.Linear)
    return nn.Linear(layer.out_features, rank), nn.Linear(rank, layer.out_features)
