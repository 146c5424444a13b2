"""What every backbone offers: features, layer groups in order, preprocessing, and the usual names of its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from graft.data.preprocessing import Inputs, Preprocessing
from graft.data.sound_preprocessing import SpectrogramPreprocessing
from graft.errors import UserError

if TYPE_CHECKING:
    from graft.models.adapters.base import Adaptation


Pictures = Preprocessing | SpectrogramPreprocessing  # what an image backbone may be given


class AnyOverrides(Protocol):
    """The parts of the inputs of some kind that the user set."""

    def apply(self, preprocessing: Any) -> Inputs:
        """`preprocessing` with the user's values."""


@dataclass(frozen=True)
class Overrides:
    """The parts of an image backbone's preprocessing that the user set; None leaves what it or its weights say."""

    size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def apply(
        self, preprocessing: Preprocessing | SpectrogramPreprocessing
    ) -> Preprocessing | SpectrogramPreprocessing:
        """`preprocessing` with the user's values; a new size keeps the proportion of crop to canvas of images.

        Raises:
            UserError: a size below 1, or as many means or deviations as the backbone has no channels for.
        """
        size = preprocessing.size if self.size is None else self.size
        if size < 1:
            raise UserError(f"backbone.size={size}: expected a positive number of pixels")
        mean = self._per_channel("mean", self.mean, preprocessing.mean)
        std = self._per_channel("std", self.std, preprocessing.std)
        if isinstance(preprocessing, SpectrogramPreprocessing):
            return replace(preprocessing, size=size, mean=mean, std=std)
        resize = preprocessing.resize and round(preprocessing.resize * size / preprocessing.size)
        return replace(preprocessing, size=size, resize=resize, mean=mean, std=std)

    @staticmethod
    def _per_channel(name: str, chosen: Sequence[float] | None, default: tuple[float, ...]) -> tuple[float, ...]:
        if chosen is None:
            return default
        if len(chosen) != len(default):
            raise UserError(f"backbone.{name}={list(chosen)}: expected {len(default)} numbers, one for each channel")
        return tuple(float(value) for value in chosen)


@dataclass(frozen=True)
class NoOverrides:
    """Of a backbone whose inputs the user cannot change."""

    def apply(self, preprocessing: Inputs) -> Inputs:
        """`preprocessing` as it is."""
        return preprocessing


class Backbone(nn.Module):
    """A network up to its feature vector: `forward(x [n, c, h, w]) -> features [n, d]`, or of other inputs [n, ...].

    Args:
        num_features: d.
        preprocessing: what its inputs go through unless the weights or the user say otherwise.
        overrides: what the user said.
        native_classifier: prefixes, in the usual checkpoint layout, of the layers that a new head replaces.
    """

    name: str  # what it is called in records
    adaptation: "Adaptation | None" = None  # what an adapter did to it

    def __init__(
        self,
        num_features: int,
        preprocessing: Inputs,
        overrides: AnyOverrides,
        native_classifier: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.overrides = overrides
        self.preprocessing: Inputs = overrides.apply(preprocessing)
        self.native_classifier = native_classifier

    @property
    def layer_groups(self) -> dict[str, nn.Module]:
        """Named groups in order from input to output; every parameter and buffer lies in exactly one."""
        raise NotImplementedError

    def cut_points(self) -> tuple[int, ...]:
        """After how many leading layer groups the forward pass can be cut in two, in ascending order."""
        return (0, len(self.layer_groups))

    def forward_to(self, cut: int, x: Tensor) -> Tensor:
        """What the first `cut` layer groups make of inputs [n, ...]; `cut` is one of the cut points."""
        features: Tensor = self(x) if cut else x
        return features

    def forward_from(self, cut: int, x: Tensor) -> Tensor:
        """Features [n, d] of what `forward_to` made."""
        features: Tensor = x if cut else self(x)
        return features

    def units(self) -> list[nn.Module]:
        """Modules that are called as a whole and hold all parameters, inner ones before those that hold them.

        Blocks that are listed in `nn.ModuleList`, as transformers have them, and then the backbone.
        """
        lists = [module for module in self.modules() if isinstance(module, nn.ModuleList)]
        blocks = [block for listed in lists for block in listed if type(block).forward is not nn.Module.forward]
        return [*blocks, self]

    def native_names(self) -> dict[str, str]:
        """Each key of our `state_dict` with its name in the layout that checkpoints usually have."""
        raise NotImplementedError

    def published_weights(self) -> tuple[str, ...]:
        """Names of weights that `download` knows; the first is what `DEFAULT` stands for."""
        return ()

    def download(self, name: str) -> tuple[dict[str, Tensor], Inputs]:
        """Published weights in the native layout, and the preprocessing they were trained with."""
        raise NotImplementedError


class SequentialBackbone(Backbone):
    """A backbone whose forward pass is its layer groups, one after the other.

    The groups are its only children, and inside a group the modules keep their native names: the key of a parameter is
    its group, then its native name, as in `stage2.layer2.0.conv1.weight`.
    """

    def __init__(
        self,
        groups: Mapping[str, nn.Module],
        num_features: int,
        preprocessing: Inputs,
        overrides: AnyOverrides,
        native_classifier: tuple[str, ...] = (),
    ) -> None:
        super().__init__(num_features, preprocessing, overrides, native_classifier)
        for name, group in groups.items():
            self.add_module(name, group)

    @property
    def layer_groups(self) -> dict[str, nn.Module]:
        """Named groups in order from input to output."""
        return dict(self.named_children())

    def units(self) -> list[nn.Module]:
        """The layer groups, each of which is called by itself."""
        return list(self.layer_groups.values())

    def native_names(self) -> dict[str, str]:
        """Each key without its group."""
        return {key: key.partition(".")[2] for key in self.state_dict()}

    def cut_points(self) -> tuple[int, ...]:
        """Before, between and after the layer groups."""
        return tuple(range(len(self.layer_groups) + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, d] of inputs [n, ...]."""
        return self.forward_from(0, x)

    def forward_to(self, cut: int, x: Tensor) -> Tensor:
        """What the first `cut` layer groups make of inputs [n, ...]."""
        return _through(list(self.children())[:cut], x)

    def forward_from(self, cut: int, x: Tensor) -> Tensor:
        """Features [n, d] of what `forward_to` made."""
        return _through(list(self.children())[cut:], x)


def _through(groups: Sequence[nn.Module], x: Tensor) -> Tensor:
    for group in groups:
        x = group(x)
    return x
