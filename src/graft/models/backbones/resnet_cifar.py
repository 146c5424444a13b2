"""Residual networks for 32x32 images."""

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from graft.data.preprocessing import Preprocessing
from graft.errors import UserError
from graft.models.backbones.base import Overrides, SequentialBackbone

WIDTHS = (16, 32, 64)
DEPTHS = (20, 32, 44, 56)


class ResNetCifar(SequentialBackbone):
    """ResNet of depth 6n + 2 with parameter-free shortcuts (option A), 64 features (He et al. 2016, section 4.2).

    Its layout is that of the usual CIFAR checkpoints: `conv1, bn1, layer1.0.conv1, ..., linear`.

    Args:
        depth: 20, 32, 44 or 56.
        size: height and width of its inputs, 32 unless said otherwise.
        mean, std: per channel, ImageNet's unless said otherwise.

    Raises:
        UserError: no such depth.
    """

    def __init__(
        self,
        depth: int,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if depth not in DEPTHS:
            raise UserError(f"backbone.depth={depth}: expected one of {', '.join(map(str, DEPTHS))}")
        super().__init__(
            _groups(num_blocks=(depth - 2) // 6),
            num_features=WIDTHS[-1],
            preprocessing=Preprocessing(size=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
            overrides=Overrides(size, mean, std),
            native_classifier=("linear.",),
        )
        self.name = f"resnet{depth}"
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut that subsamples and pads channels with zeros."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[n, in_channels, h, w] -> [n, channels, h / stride, w / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(y + shortcut)


def _groups(num_blocks: int) -> dict[str, nn.Module]:
    narrow, middle, wide = WIDTHS
    stem = OrderedDict(conv1=nn.Conv2d(3, narrow, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(narrow), relu=nn.ReLU())
    last = OrderedDict(layer3=_layer(num_blocks, middle, wide), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    return {
        "stem": nn.Sequential(stem),
        "stage1": nn.Sequential(OrderedDict(layer1=_layer(num_blocks, narrow, narrow))),
        "stage2": nn.Sequential(OrderedDict(layer2=_layer(num_blocks, narrow, middle))),
        "stage3": nn.Sequential(last),
    }


def _layer(num_blocks: int, in_channels: int, channels: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride=channels // in_channels)
    return nn.Sequential(first, *(BasicBlock(channels, channels, stride=1) for _ in range(num_blocks - 1)))
