"""How each torchvision family is cut into layer groups.

The first group is the stem. A stage is a run of blocks at one resolution; what reduces the resolution opens the stage.
Norms, 1x1 convolutions and pooling at the end belong to the last stage; hidden layers of a classifier are groups of
their own (`fc1`, `fc2`, `neck`). Vision transformers have one group for each block.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision import models

from graft.errors import UserError

Groups = dict[str, nn.Module]


def layer_groups(native: nn.Module) -> Groups:
    """The groups of a torchvision model, whose modules they share; one after the other they give its features [n, d].

    Raises:
        UserError: the model is of a family unknown here.
    """
    for family, cut in FAMILIES.items():
        if isinstance(native, family):
            return cut(native)
    raise UserError(f"backbone: no layer groups are known for the torchvision model {type(native).__name__}")


def tree(native: nn.Module, *items: str | nn.Module) -> nn.Sequential:
    """The submodules of those dotted names, one after the other, under the same names; other modules go between them.

    >>> list(tree(models.squeezenet1_1(), "features.0", "features.1", nn.Flatten()).state_dict())
    ['features.0.weight', 'features.0.bias']
    """
    root = nn.Sequential()
    for item in items:
        if isinstance(item, nn.Module):
            root.append(item)
            continue
        *parents, leaf = item.split(".")
        node: nn.Module = root
        for parent in parents:
            if parent not in dict(node.named_children()):
                node.add_module(parent, nn.Sequential())
            node = node.get_submodule(parent)
        node.add_module(leaf, native.get_submodule(item))
    return root


def _runs(native: nn.Module, container: str, starts: Callable[[nn.Module, nn.Module], bool]) -> list[list[str]]:
    """Names of the children of `container` in runs; `starts(previous, child)` says where another run begins."""
    children = list(native.get_submodule(container).named_children())
    runs = [[f"{container}.{children[0][0]}"]]
    for (_, previous), (name, child) in pairwise(children):
        if starts(previous, child):
            runs.append([])
        runs[-1].append(f"{container}.{name}")
    return runs


def _after_pooling(previous: nn.Module, child: nn.Module) -> bool:
    return isinstance(previous, nn.MaxPool2d)


def _at_stride(previous: nn.Module, child: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) and max(module.stride) > 1 for module in child.modules())


def _staged(native: nn.Module, runs: Iterable[Iterable[str]], *tail: str | nn.Module) -> Groups:
    """Runs of names as `stem, stage1, ...`, the tail in the last of them."""
    runs = [list(run) for run in runs]
    names = ["stem", *(f"stage{number}" for number in range(1, len(runs)))]
    groups: Groups = {name: tree(native, *run) for name, run in zip(names[:-1], runs[:-1], strict=True)}
    return {**groups, names[-1]: tree(native, *runs[-1], *tail)}


def _pool() -> tuple[nn.Module, nn.Module]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten()


def _alexnet(native: nn.Module) -> Groups:
    return {
        **_staged(native, _runs(native, "features", _after_pooling)),
        "fc1": tree(native, "avgpool", nn.Flatten(), "classifier.0", "classifier.1", "classifier.2"),
        "fc2": tree(native, "classifier.3", "classifier.4", "classifier.5"),
    }


def _vgg(native: nn.Module) -> Groups:
    return {
        **_staged(native, _runs(native, "features", _after_pooling)),
        "fc1": tree(native, "avgpool", nn.Flatten(), "classifier.0", "classifier.1", "classifier.2"),
        "fc2": tree(native, "classifier.3", "classifier.4"),
    }


def _squeezenet(native: nn.Module) -> Groups:
    return _staged(native, _runs(native, "features", _after_pooling), *_pool())


def _resnet(native: nn.Module) -> Groups:
    stem = ["conv1", "bn1", "relu", "maxpool"]
    return _staged(native, [stem, ["layer1"], ["layer2"], ["layer3"], ["layer4"]], *_pool())


def _regnet(native: nn.Module) -> Groups:
    blocks = [[f"trunk_output.{name}"] for name, _ in native.get_submodule("trunk_output").named_children()]
    return _staged(native, [["stem"], *blocks], *_pool())


def _densenet(native: nn.Module) -> Groups:
    stem = [f"features.{name}" for name in ("conv0", "norm0", "relu0", "pool0")]
    stages = [[f"features.denseblock{i}", f"features.transition{i}"] for i in (1, 2, 3)]
    last = ["features.denseblock4", "features.norm5"]
    return _staged(native, [stem, *stages, last], nn.ReLU(inplace=True), *_pool())


def _googlenet(native: nn.Module) -> Groups:
    stem = ["conv1", "maxpool1", "conv2", "conv3", "maxpool2"]
    stage1 = ["inception3a", "inception3b", "maxpool3"]
    stage2 = [*(f"inception4{letter}" for letter in "abcde"), "maxpool4"]
    return _staged(native, [stem, stage1, stage2, ["inception5a", "inception5b"]], *_pool())


def _inception(native: nn.Module) -> Groups:
    convolutions = [f"Conv2d_{name}" for name in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")]
    stem = [*convolutions[:3], "maxpool1", *convolutions[3:], "maxpool2"]
    stages = [
        [f"Mixed_{number}{letter}" for letter in letters] for number, letters in ((5, "bcd"), (6, "abcde"), (7, "abc"))
    ]
    return _staged(native, [stem, *stages], *_pool())


def _strided_features(native: nn.Module) -> Groups:
    return _staged(native, _runs(native, "features", _at_stride), *_pool())


def _mobilenet_v3(native: nn.Module) -> Groups:
    return {**_strided_features(native), "neck": tree(native, "classifier.0", "classifier.1")}


def _mnasnet(native: nn.Module) -> Groups:
    return _staged(native, _runs(native, "layers", _at_stride), *_pool())


def _shufflenet(native: nn.Module) -> Groups:
    return _staged(native, [["conv1", "maxpool"], ["stage2"], ["stage3"], ["stage4", "conv5"]], *_pool())


def _downsampled_features(native: nn.Module) -> list[list[str]]:
    """`features` as stem, stage, then pairs of what halves the resolution and a stage."""
    names = [f"features.{name}" for name, _ in native.get_submodule("features").named_children()]
    return [names[:1], names[1:2], *(names[i : i + 2] for i in range(2, len(names), 2))]


def _convnext(native: nn.Module) -> Groups:
    return _staged(native, _downsampled_features(native), "avgpool", "classifier.0", "classifier.1")


def _swin(native: nn.Module) -> Groups:
    return _staged(native, _downsampled_features(native), "norm", "permute", "avgpool", "flatten")


def _maxvit(native: nn.Module) -> Groups:
    blocks = [[f"blocks.{name}"] for name, _ in native.get_submodule("blocks").named_children()]
    return {
        **_staged(native, [["stem"], *blocks], "classifier.0", "classifier.1", "classifier.2"),
        "neck": tree(native, "classifier.3", "classifier.4"),
    }


class PositionEmbedding(nn.Module):
    """Adds a learnt embedding to tokens [n, t, d]."""

    def __init__(self, pos_embedding: nn.Parameter, dropout: nn.Module) -> None:
        super().__init__()
        self.pos_embedding = pos_embedding
        self.dropout = dropout

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, t, d] -> [n, t, d]."""
        summed: Tensor = self.dropout(tokens + self.pos_embedding)
        return summed


class VitStem(nn.Module):
    """Patches, class token and position embedding of a vision transformer: [n, 3, h, w] -> [n, 1 + t, d].

    The position embedding, which torchvision keeps in the encoder, is used before its first block and is trained with
    the patches.
    """

    def __init__(self, native: models.VisionTransformer) -> None:
        super().__init__()
        self.conv_proj = native.conv_proj
        self.class_token = native.class_token
        self.encoder = PositionEmbedding(native.encoder.pos_embedding, native.encoder.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Embedded tokens, the class token first."""
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)
        embedded: Tensor = self.encoder(tokens)
        return embedded


class ClassToken(nn.Module):
    """The first of the tokens: [n, t, d] -> [n, d]."""

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, t, d] -> [n, d]."""
        return tokens[:, 0]


def _vit(native: nn.Module) -> Groups:
    assert isinstance(native, models.VisionTransformer)
    layers = [f"encoder.layers.{name}" for name, _ in native.get_submodule("encoder.layers").named_children()]
    blocks: Groups = {f"block{i}": tree(native, name) for i, name in enumerate(layers[:-1], start=1)}
    last = tree(native, layers[-1], "encoder.ln", ClassToken())
    return {"stem": VitStem(native), **blocks, f"block{len(layers)}": last}


FAMILIES: dict[type[nn.Module], Callable[[nn.Module], Groups]] = {
    models.AlexNet: _alexnet,
    models.ConvNeXt: _convnext,
    models.DenseNet: _densenet,
    models.EfficientNet: _strided_features,
    models.GoogLeNet: _googlenet,
    models.Inception3: _inception,
    models.MaxVit: _maxvit,
    models.MNASNet: _mnasnet,
    models.MobileNetV2: _strided_features,
    models.MobileNetV3: _mobilenet_v3,
    models.RegNet: _regnet,
    models.ResNet: _resnet,
    models.ShuffleNetV2: _shufflenet,
    models.SqueezeNet: _squeezenet,
    models.SwinTransformer: _swin,
    models.VGG: _vgg,
    models.VisionTransformer: _vit,
}
