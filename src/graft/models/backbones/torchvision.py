"""Any torchvision classification model as a backbone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torchvision.models
from torch import Tensor, nn

from graft.data.preprocessing import Preprocessing
from graft.errors import UserError, did_you_mean
from graft.models.backbones.base import Overrides, SequentialBackbone
from graft.models.backbones.torchvision_groups import layer_groups


class TorchvisionBackbone(SequentialBackbone):
    """A torchvision model up to its last linear layer, cut into layer groups; parameters keep their torchvision names.

    It computes what the native model computes before its classifier. Auxiliary classifiers are left out, and so is the
    dropout just before the classifier: both belong to the head that is replaced.

    Args:
        name: a name of `torchvision.models.list_models`, such as `resnet18`.
        size: height and width of its inputs; that of torchvision's default weights unless said otherwise.
        mean, std: per channel; those of torchvision's default weights unless said otherwise.

    Raises:
        UserError: no such model, or a size that it cannot have.
    """

    def __init__(
        self,
        name: str,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        _check(name)
        preprocessing = _preprocessing(name, "DEFAULT")
        native = _native(name, preprocessing.size if size is None else size)
        groups = layer_groups(native)
        replaced = _left_over(native, groups)
        super().__init__(
            groups,
            # The classifier comes last; its weight is [k, d] or, where it is a 1x1 convolution, [k, d, 1, 1].
            num_features=[weight for key, weight in replaced.items() if key.endswith("weight")][-1].shape[1],
            preprocessing=preprocessing,
            overrides=Overrides(size, mean, std),
            native_classifier=tuple(sorted({key.rpartition(".")[0] + "." for key in replaced})),
        )
        self.name = name

    def published_weights(self) -> tuple[str, ...]:
        """Torchvision's names, its default first."""
        weights = torchvision.models.get_model_weights(self.name)
        default = weights["DEFAULT"].name
        return (default, *(member.name for member in weights if member.name != default))

    def download(self, name: str) -> tuple[dict[str, Tensor], Preprocessing]:
        """Torchvision's weights of that name and their preprocessing.

        Built through the native model, which knows how to read the older layouts of its own files.
        """
        native = torchvision.models.get_model(self.name, weights=name)
        return native.state_dict(), _preprocessing(self.name, name)


def _check(name: str) -> None:
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise UserError(
            f"backbone.name={name}: torchvision has no such classification model; {did_you_mean(name, names)}"
        )


def _native(name: str, size: int) -> nn.Module:
    """The torchvision model with random weights, for inputs of that size."""
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # left out, torchvision warns
    if name.startswith("vit"):
        options["image_size"] = size
    if name.startswith("maxvit"):
        options["input_size"] = (size, size)
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    except (AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"backbone.size={size}: {name} cannot be built for it: {reason}") from error
    return model


def _preprocessing(name: str, weights: str) -> Preprocessing:
    preset = torchvision.models.get_model_weights(name)[weights].transforms()
    preprocessing = Preprocessing(
        size=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        resize=preset.resize_size[0],
        interpolation=preset.interpolation.value,
    )
    if name in ("googlenet", "inception_v3"):
        # With its own weights the native model rescales ImageNet's normalisation to this one inside `forward`.
        return replace(preprocessing, mean=(0.5,) * 3, std=(0.5,) * 3)
    return preprocessing


def _left_over(native: nn.Module, groups: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """What of the native model is in no group: its classifiers."""
    taken = {key for group in groups.values() for key in group.state_dict()}
    return {key: value for key, value in native.state_dict().items() if key not in taken}
