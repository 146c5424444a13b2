"""The LeNet of unsupervised adaptation between MNIST and USPS."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from graft.data.preprocessing import Preprocessing
from graft.models.backbones.base import Overrides, SequentialBackbone
from graft.models.backbones.bottleneck import NUM_FEATURES, bottleneck
from graft.models.backbones.cnn import HalvingMaxPool, side_after_two


class LeNet(SequentialBackbone):
    """Two 5x5 convolutions of 20 and 50 channels, each pooled, then a bottleneck of 256 features.

    Liang et al., "Do we really need to access the source data?", ICML 2020, after Long et al., "Conditional
    adversarial domain adaptation", NeurIPS 2018.

    Args:
        channels: 1 (grey) or 3 (colour).
        size: height and width of its inputs, 28 unless said otherwise.
        mean, std: per channel; inputs are scaled to [-1, 1] unless said otherwise.

    Raises:
        UserError: `size` leaves nothing after the two poolings.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            _groups(channels, 28 if size is None else size),
            num_features=NUM_FEATURES,
            preprocessing=Preprocessing(size=28, mean=(0.5,) * channels, std=(0.5,) * channels),
            overrides=Overrides(size, mean, std),
            native_classifier=("fc.",),
        )
        self.name = "lenet"


def _groups(channels: int, size: int) -> dict[str, nn.Module]:
    side = side_after_two(size, "lenet")
    conv1 = OrderedDict(conv1=nn.Conv2d(channels, 20, 5), pool=HalvingMaxPool(), relu=nn.ReLU())
    conv2 = OrderedDict(
        conv2=nn.Conv2d(20, 50, 5),
        dropout=nn.Dropout2d(0.5),
        pool=HalvingMaxPool(),
        relu=nn.ReLU(),
        flatten=nn.Flatten(),
    )
    return {
        "stem": nn.Sequential(conv1),
        "stage1": nn.Sequential(conv2),
        "bottleneck": bottleneck(50 * side * side),
    }
