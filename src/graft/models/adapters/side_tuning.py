"""Side-tuning: a small network of its own beside the backbone."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graft.models.adapters.base import Adapter
from graft.models.adapters.checks import check_at_least_one, image_channels
from graft.models.backbones.base import Backbone


@dataclass(frozen=True, kw_only=True)
class SideTuning(Adapter):
    """a B(x) + (1 - a) S(x), with backbone B, side network S and a learnt a, 1/2 at the start.

    Zhang et al., "Side-Tuning", ECCV 2020, section 3. S is a layer group of its own, `side`, the last one. It cannot be
    merged.

    Args:
        channels: of the side network's first convolution; the second and third have twice and four times as many.

    Raises:
        UserError: fewer channels than 1.
    """

    channels: int = 16

    def __post_init__(self) -> None:
        check_at_least_one(self.name, "channels", self.channels)

    def _install(self, backbone: Backbone, size: int) -> tuple[Backbone, tuple[str, ...], dict[str, str]]:
        return SideTuned(backbone, self.channels), (), {}


class SideNetwork(nn.Module):
    """Three strided convolutions, pooled, and a linear layer: [n, c, h, w] -> [n, d]; `balance` is the logit of a."""

    def __init__(self, in_channels: int, channels: int, num_features: int) -> None:
        super().__init__()
        widths = (in_channels, channels, 2 * channels, 4 * channels)
        self.layers = nn.Sequential(
            *(
                layer
                for i in range(3)
                for layer in (nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1), nn.ReLU())
            ),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], num_features),
        )
        self.balance = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, d] of images [n, c, h, w]."""
        features: Tensor = self.layers(x)
        return features


class SideTuned(Backbone):
    """A backbone and its side network; the side needs the image, so there is no place to cut but before and after."""

    def __init__(self, base: Backbone, channels: int) -> None:
        super().__init__(base.num_features, base.preprocessing, base.overrides)
        self.name = base.name
        self.base = base
        self.side = SideNetwork(image_channels(base, "side_tuning"), channels, base.num_features)

    @property
    def layer_groups(self) -> dict[str, nn.Module]:
        """The backbone's groups, then `side`."""
        return {**self.base.layer_groups, "side": self.side}

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, d] of images [n, c, h, w]."""
        share = self.side.balance.sigmoid()
        blended: Tensor = share * self.base(x) + (1 - share) * self.side(x)
        return blended
