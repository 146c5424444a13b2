"""The small convolutional network of the PyTorch CIFAR-10 tutorial, after LeNet-5."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graft.data.preprocessing import Preprocessing
from graft.errors import UserError
from graft.models.backbones.base import Overrides, SequentialBackbone


class Cnn(SequentialBackbone):
    """Two 5x5 convolutions of 6 and 16 channels, each pooled, then 400-120-84 (after LeCun et al. 1998).

    Args:
        channels: 1 (grey) or 3 (colour).
        size: height and width of its inputs, 32 unless said otherwise; the 400 grow or shrink with it.
        mean, std: per channel; inputs are scaled to [-1, 1] unless said otherwise.

    Raises:
        UserError: `size` leaves nothing after the two poolings.
    """

    def __init__(
        self,
        channels: int = 3,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        preprocessing = Preprocessing(size=32, mean=(0.5,) * channels, std=(0.5,) * channels)
        super().__init__(
            _groups(channels, 32 if size is None else size),
            num_features=84,
            preprocessing=preprocessing,
            overrides=Overrides(size, mean, std),
            native_classifier=("fc3.",),
        )
        self.name = "cnn"


class HalvingMaxPool(nn.MaxPool2d):
    """The largest of every 2x2 values: [n, c, h, w] -> [n, c, h // 2, w // 2].

    Without gradients on a CPU, pairs of rows and then of columns are compared, which is vectorised and gives the same
    values; torch's own kernel notes where each maximum was and takes ten times as long.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        """The maxima."""
        if x.device.type != "cpu" or (x.requires_grad and torch.is_grad_enabled()):
            maxima: Tensor = super().forward(x)
            return maxima
        height, width = (side // 2 * 2 for side in x.shape[2:])
        rows = torch.maximum(x[:, :, 0:height:2], x[:, :, 1:height:2])
        return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


def side_after_two(size: int, name: str) -> int:
    """Height and width that two 5x5 convolutions, each pooled, leave of images of this size.

    Raises:
        UserError: nothing; `name` is the backbone's.
    """
    side = ((size - 4) // 2 - 4) // 2
    if side < 1:
        raise UserError(f"backbone.size={size}: the {name} needs at least 16 pixels")
    return side


def _groups(channels: int, size: int) -> dict[str, nn.Module]:
    side = side_after_two(size, "cnn")
    conv1 = OrderedDict(conv1=nn.Conv2d(channels, 6, 5), relu=nn.ReLU(), pool=HalvingMaxPool())
    conv2 = OrderedDict(conv2=nn.Conv2d(6, 16, 5), relu=nn.ReLU(), pool=HalvingMaxPool(), flatten=nn.Flatten())
    return {
        "stem": nn.Sequential(conv1),
        "stage1": nn.Sequential(conv2),
        "stage2": nn.Sequential(OrderedDict(fc1=nn.Linear(16 * side * side, 120), relu=nn.ReLU())),
        "stage3": nn.Sequential(OrderedDict(fc2=nn.Linear(120, 84), relu=nn.ReLU())),
    }
