"""The DTN of unsupervised adaptation from SVHN to MNIST."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from graft.data.preprocessing import Preprocessing
from graft.errors import UserError
from graft.models.backbones.base import Overrides, SequentialBackbone
from graft.models.backbones.bottleneck import NUM_FEATURES, bottleneck

WIDTHS = (64, 128, 256)
DROPOUTS = (0.1, 0.3, 0.5)  # of whole channels
STRIDE = 2  # of each convolution


class DTN(SequentialBackbone):
    """Three 5x5 convolutions of 64, 128 and 256 channels, stride 2 and batch norm, then a bottleneck of 256 features.

    Liang et al., "Do we really need to access the source data?", ICML 2020, after Long et al., "Conditional
    adversarial domain adaptation", NeurIPS 2018.

    Args:
        channels: 1 (grey) or 3 (colour).
        size: height and width of its inputs, 32 unless said otherwise.
        mean, std: per channel; inputs are scaled to [-1, 1] unless said otherwise.

    Raises:
        UserError: `size` is below 8.
    """

    def __init__(
        self,
        channels: int = 3,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            _groups(channels, 32 if size is None else size),
            num_features=NUM_FEATURES,
            preprocessing=Preprocessing(size=32, mean=(0.5,) * channels, std=(0.5,) * channels),
            overrides=Overrides(size, mean, std),
            native_classifier=("fc.",),
        )
        self.name = "dtn"


def _groups(channels: int, size: int) -> dict[str, nn.Module]:
    shrinkage = STRIDE ** len(WIDTHS)
    if size < shrinkage:
        raise UserError(f"backbone.size={size}: the dtn needs at least {shrinkage} pixels")
    side = -(-size // shrinkage)
    inputs = (channels, *WIDTHS[:-1])
    stages = [_stage(i, *widths, DROPOUTS[i]) for i, widths in enumerate(zip(inputs, WIDTHS, strict=True))]
    stages[-1].add_module("flatten", nn.Flatten())
    names = ("stem", "stage1", "stage2")
    return {**dict(zip(names, stages, strict=True)), "bottleneck": bottleneck(WIDTHS[-1] * side * side)}


def _stage(index: int, num_inputs: int, width: int, dropout: float) -> nn.Sequential:
    conv = nn.Conv2d(num_inputs, width, 5, STRIDE, padding=2)
    layers = {"conv": conv, "bn": nn.BatchNorm2d(width), "dropout": nn.Dropout2d(dropout), "relu": nn.ReLU()}
    return nn.Sequential(OrderedDict((f"{name}{index + 1}", layer) for name, layer in layers.items()))
