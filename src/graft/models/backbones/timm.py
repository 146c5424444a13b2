"""Any timm model as a backbone."""

import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from graft.data.preprocessing import Preprocessing
from graft.errors import UserError, did_you_mean
from graft.models.backbones.base import Backbone, Overrides
from graft.models.backbones.views import view_of_group


class TimmBackbone(Backbone):
    """A timm model without its classifier. Needs the extra `timm`.

    Its layer groups are timm's own coarse groups: views that share the model's parameters, since a timm model is not
    in general a sequence. A last group of nothing but norms is joined to the one before it.

    Args:
        name: a name of `timm.list_models`, with or without the tag of its weights: `resnet10t`, `resnet18.a1_in1k`.
        size: height and width of its inputs; that of timm's default weights unless said otherwise.
        mean, std: per channel; those of timm's default weights unless said otherwise.

    Raises:
        UserError: timm is not installed, has no such model, or the model cannot have that size.
    """

    def __init__(
        self,
        name: str,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        model = _native(name, size)
        config = model.pretrained_cfg
        classifiers = config["classifier"] or ()
        super().__init__(
            num_features=getattr(model, "head_hidden_size", model.num_features),
            preprocessing=_preprocessing(config),
            overrides=Overrides(size, mean, std),
            native_classifier=tuple(
                f"{prefix}." for prefix in ([classifiers] if isinstance(classifiers, str) else classifiers)
            ),
        )
        self.name = name
        self.model = model
        self._group_of = _group_names(model)
        self._layer_groups = {name.rpartition(".")[0]: group for name, group in self._group_of.items()}

    @property
    def layer_groups(self) -> dict[str, nn.Module]:
        """Views of the model's modules, in order from input to output; not a composition."""
        names = dict.fromkeys(self._group_of.values())
        return {group: view_of_group(self.model, "", group, self._find_group) for group in names}

    def _find_group(self, name: str) -> str:
        """The group of a parameter or buffer; of one that was put around or beside a layer, that layer's."""
        if name in self._group_of:
            return self._group_of[name]
        owner = name.rpartition(".")[0]
        while owner not in self._layer_groups:
            owner = owner.rpartition(".")[0]
        return self._layer_groups[owner]

    def native_names(self) -> dict[str, str]:
        """Each key without `model.`."""
        return {key: key.removeprefix("model.") for key in self.state_dict()}

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, d] of images [n, c, h, w]."""
        features: Tensor = self.model(x)
        return features

    def published_weights(self) -> tuple[str, ...]:
        """Tags of timm's weights for this architecture, that of `name` or timm's default first."""
        architecture = self.name.partition(".")[0]
        tags = [name.partition(".")[2] for name in _timm().list_pretrained(f"{architecture}.*")]
        default = self.model.pretrained_cfg["tag"]
        return tuple(sorted((tag for tag in tags if tag), key=lambda tag: (tag != default, tag)))

    def download(self, name: str) -> tuple[dict[str, Tensor], Preprocessing]:
        """Timm's weights of that tag and their preprocessing."""
        architecture = self.name.partition(".")[0]
        model = _timm().create_model(f"{architecture}.{name}", pretrained=True)
        return model.state_dict(), _preprocessing(model.pretrained_cfg)


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise UserError("backbone=timm: timm is not installed; pip install 'graft[timm]'") from error
    module: ModuleType = timm
    return module


def _native(name: str, size: int | None) -> Any:
    timm = _timm()
    if not timm.is_model(name):
        raise UserError(f"backbone.name={name}: timm has no such model; {_suggestion(name, timm.list_models())}")
    config = timm.get_pretrained_cfg(name)
    options = {"img_size": size} if size is not None and config and config.fixed_input_size else {}
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **options)
    except (AssertionError, ValueError, RuntimeError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"backbone.name={name}: timm cannot build it at size {size}: {reason}") from error


def _suggestion(name: str, names: Sequence[str]) -> str:
    suggestion = did_you_mean(name, names)
    return suggestion if len(suggestion) < 200 else "timm.list_models() lists them"


def _preprocessing(config: dict[str, Any]) -> Preprocessing:
    size = config["input_size"][-1]
    return Preprocessing(
        size=size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resize=round(size / config["crop_pct"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
    )


def _group_names(model: Any) -> dict[str, str]:
    """The group of each parameter and buffer by its native name, in order of the groups."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    from timm.models._manipulate import group_with_matcher  # timm.models.group_parameters, but for buffers too

    groups = list(
        group_with_matcher(iter(tensors.items()), model.group_matcher(coarse=True), return_values=False).values()
    )
    if len(groups) > 1 and all(tensors[name].ndim <= 1 for name in groups[-1]):
        groups[-2:] = [groups[-2] + groups[-1]]
    # The blocks of a transformer are called `blocks.3.attn...`; stages are called `blocks.3.0.conv...`, among others.
    kind = "block" if any(re.match(r"blocks\.\d+\.[a-z]", name) for name in tensors) else "stage"
    names = ["stem", *(f"{kind}{number}" for number in range(1, len(groups)))]
    return {name: group for group, members in zip(names, groups, strict=True) for name in members}
