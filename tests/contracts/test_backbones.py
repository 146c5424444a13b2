"""What holds for every backbone of `conf/backbone`, for every torchvision family and for a few shapes of timm model."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
import torchvision.models
from conf_plugins import CONF, build, has_placeholder, load, names
from sounds import write_sound_encoder
from texts import write_encoder
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from graft.data.preprocessing import Preprocessing
from graft.data.texts import TextPreprocessing
from graft.data.waveform_preprocessing import WaveformPreprocessing
from graft.errors import UserError
from graft.inference.texts import random_tokens
from graft.models.backbones.base import Backbone, SequentialBackbone
from graft.models.backbones.timm import TimmBackbone
from graft.models.backbones.torchvision import TorchvisionBackbone
from graft.models.weights import load_weights
from graft.sharding import shard
from graft.transferred import group_grams

SIZES = (32, 64, 96, 224)  # the first that a backbone can be built and run at is used
MEAN, STD = 0.4, 0.3
# Models reached through the generic files; timm's are of unlike shapes.
TORCHVISION = ("squeezenet1_0", "regnet_x_400mf", "mnasnet0_5")
TEXT = ("bag_of_ngrams", "text_transformer", "hugging_face")
ENCODER = "an encoder that is written when it is needed"
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
HEARING: dict[str, dict[str, Any]] = {  # encoders of waveforms, each with its settings
    "wav2vec2": {},
    "wav2vec2-layer": LAYER,
    "hubert": {},
    "hubert-layer": LAYER,
    "wavlm": {},
    "wavlm-layer": LAYER,
    "unispeech": {},
    "unispeech-sat-layer": LAYER,
    "data2vec-audio": {},
}
TIMM = (
    "test_vit",
    "test_resnet",
    "test_convnext",
    "convnext_atto",
    "mobilenetv3_small_050",
    "deit_tiny_distilled_patch16_224",
)


def _configs() -> dict[str, dict[str, Any]]:
    configs = {name: load("backbone", name) for name in names("backbone")}
    configs["hugging_face"]["path"] = ENCODER
    generic = {"torchvision": TORCHVISION, "timm": TIMM}
    for kind, models in generic.items():
        config = configs.pop(kind)
        assert has_placeholder(config)
        configs |= {f"{kind}-{name}": {**config, "name": name} for name in models}
    hearing = configs.pop("hugging_face_audio")
    return configs | {f"hugging_face_audio-{name}": {**hearing, "path": name} for name in HEARING}


CONFIGS = _configs()
READING = [key for key, config in CONFIGS.items() if config["_target_"].split(".")[-2] in TEXT]  # texts, not images


def _marked() -> list[Any]:
    """The configs, all but the smallest of each torchvision family marked slow where they are large."""
    sizes: dict[str, dict[str, int]] = {}
    for key, config in CONFIGS.items():
        if config["_target_"].endswith("TorchvisionBackbone"):
            family = torchvision.models.get_model_builder(config["name"]).__module__
            weights = torchvision.models.get_model_weights(config["name"])
            sizes.setdefault(family, {})[key] = weights["DEFAULT"].meta["num_params"]
    slow = {key for family in sizes.values() for key, size in family.items() if size > max(2e7, min(family.values()))}
    return [pytest.param(key, marks=pytest.mark.slow if key in slow else ()) for key in CONFIGS]


@cache
def encoder() -> str:
    return str(write_encoder(Path(mkdtemp())))


@cache
def sound_encoder(name: str) -> str:
    return str(write_sound_encoder(Path(mkdtemp()), name.removesuffix("-layer"), **HEARING[name]))


def smallest(config: dict[str, Any]) -> Backbone:
    if config.get("path") in HEARING:
        hearing: Backbone = build({**config, "path": sound_encoder(config["path"])}).eval()
        return hearing
    if config in [CONFIGS[key] for key in READING]:
        path = {"path": encoder()} if "path" in config else {}
        reading: Backbone = build({**config, **path, "size": 12}).eval()
        return reading
    for size in SIZES:
        try:
            channels = config.get("channels", 3)
            backbone: Backbone = build(
                {**config, "size": size, "mean": [MEAN] * channels, "std": [STD] * channels}
            ).eval()
            with torch.no_grad():
                backbone(images(backbone))
        except (UserError, RuntimeError):
            continue
        return backbone
    raise AssertionError(f"{config} runs at none of {SIZES}")


def images(backbone: Backbone, n: int = 2) -> Tensor:
    preprocessing = backbone.preprocessing
    generator = torch.Generator().manual_seed(1)
    if isinstance(preprocessing, TextPreprocessing):
        return random_tokens(preprocessing, n, generator).long()
    return torch.randn((n, *preprocessing.shape), generator=generator)


@pytest.fixture(scope="module", params=_marked())
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def backbone(config: dict[str, Any]) -> Backbone:
    torch.manual_seed(0)
    return smallest(config)


@pytest.fixture(scope="module")
def features(backbone: Backbone) -> Tensor:
    with torch.no_grad():
        return backbone(images(backbone))


def tensors(module: nn.Module) -> dict[int, str]:
    return {id(tensor): name for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def test_features_are_vectors_of_the_announced_length(backbone: Backbone, features: Tensor) -> None:
    assert features.shape == (2, backbone.num_features)
    assert features.isfinite().all()
    assert not torch.equal(features[0], features[1])


def test_every_parameter_and_buffer_is_in_exactly_one_group(backbone: Backbone) -> None:
    groups = [tensors(group) for group in backbone.layer_groups.values()]
    assert all(groups), "a group without anything in it"
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert set().union(*groups) == set(tensors(backbone))
    assert next(iter(backbone.layer_groups)) in ("stem", "embeddings")


def test_groups_come_in_the_order_in_which_the_input_passes_them(backbone: Backbone) -> None:
    first_use: dict[int, int] = {}

    def note(module: nn.Module, *_: Any) -> None:
        first_use.setdefault(id(module), len(first_use))

    leaves = [m for m in backbone.modules() if not list(m.children()) and list(m.parameters())]
    hooks = [leaf.register_forward_pre_hook(note) for leaf in leaves]
    with torch.no_grad():
        backbone(images(backbone))
    for hook in hooks:
        hook.remove()
    spans = [
        [first_use[id(m)] for m in group.modules() if id(m) in first_use] for group in backbone.layer_groups.values()
    ]
    for before, after in pairwise(spans):
        assert max(before) < min(after)


def test_the_forward_pass_can_be_cut_in_two(backbone: Backbone, features: Tensor) -> None:
    cuts = backbone.cut_points()
    assert cuts[0] == 0
    assert cuts[-1] == len(backbone.layer_groups)
    x = images(backbone)
    with torch.no_grad():
        for cut in cuts:
            assert torch.equal(backbone.forward_from(cut, backbone.forward_to(cut, x)), features)


def test_a_sequence_of_groups_is_the_forward_pass_and_leaves_its_input_alone(
    backbone: Backbone, features: Tensor
) -> None:
    if not isinstance(backbone, SequentialBackbone):
        pytest.skip("groups are views")
    x = images(backbone)
    for group in backbone.layer_groups.values():
        kept = x.clone()
        with torch.no_grad():
            y = group(x)
        assert torch.equal(x, kept), "cached inputs of a group would be overwritten"
        x = y
    assert torch.equal(x, features)


def test_the_output_of_every_group_is_seen(backbone: Backbone) -> None:
    names = list(backbone.layer_groups)
    with torch.no_grad():
        grams = group_grams(backbone, names, 0, images(backbone, 4))
    assert list(grams) == names
    assert all(gram.abs().sum() > 0 for gram in grams.values())
    assert not any(module._forward_hooks for module in backbone.modules())


def test_native_names_are_complete_and_distinct(backbone: Backbone) -> None:
    native = backbone.native_names()
    assert list(native) == list(backbone.state_dict())
    assert len(set(native.values())) == len(native)
    in_groups = [name for group in backbone.layer_groups.values() for name in group.state_dict()]
    assert sorted(in_groups) == sorted(native.values())


@pytest.mark.parametrize("layout", ["own", "native"])
def test_state_survives_a_round_trip(backbone: Backbone, features: Tensor, layout: str) -> None:
    rename: Callable[[str], str] = backbone.native_names().__getitem__ if layout == "native" else str
    state = {rename(name): tensor for name, tensor in backbone.state_dict().items()}
    other = deepcopy(backbone)
    for tensor in other.state_dict().values():
        tensor.zero_()
    report = load_weights(other, state)
    assert set(report.loaded) == set(other.state_dict())
    with torch.no_grad():
        assert torch.equal(other(images(other)), features)


def test_every_parameter_gets_a_gradient(backbone: Backbone) -> None:
    parameters = dict(backbone.named_parameters())
    gradients = torch.autograd.grad(backbone(images(backbone)).square().sum(), parameters.values(), allow_unused=True)
    assert [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None] == []


def test_the_user_has_the_last_word_on_preprocessing(backbone: Backbone) -> None:
    if isinstance(backbone.preprocessing, WaveformPreprocessing):
        assert backbone.overrides.apply(backbone.preprocessing) == backbone.preprocessing, "there is nothing to say"
        return
    if not isinstance(backbone.preprocessing, Preprocessing):
        assert backbone.preprocessing.size == 12
        assert backbone.overrides.apply(backbone.preprocessing.with_size(9)).size == 12
        return
    channels = backbone.preprocessing.channels
    assert backbone.preprocessing.mean == (MEAN,) * channels
    assert backbone.preprocessing.std == (STD,) * channels
    trained_with = replace(backbone.preprocessing, size=48, mean=(0.0,) * channels, interpolation="bicubic")
    applied = backbone.overrides.apply(trained_with)
    assert (applied.size, applied.mean) == (backbone.preprocessing.size, backbone.preprocessing.mean)
    assert applied.interpolation == "bicubic"


def test_it_computes_what_the_native_model_computes_before_its_classifier(backbone: Backbone, features: Tensor) -> None:
    expected = native_features(backbone, images(backbone))
    if expected is None:
        pytest.skip("no native model")
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def native_features(backbone: Backbone, x: Tensor) -> Tensor | None:
    """What goes into the last layer of the model as its library builds it, given the same weights."""
    if not isinstance(backbone, TorchvisionBackbone | TimmBackbone):
        return None
    native = _native_timm(backbone) if isinstance(backbone, TimmBackbone) else _native_torchvision(backbone)
    state = native.state_dict()
    ours = {name: backbone.state_dict()[own] for own, name in backbone.native_names().items()}
    assert all(name.startswith(backbone.native_classifier) for name in set(state) - set(ours))
    state.update(ours)
    native.load_state_dict(state)
    native.eval()
    with torch.no_grad():
        if isinstance(backbone, TimmBackbone):
            return native.forward_head(native.forward_features(x), pre_logits=True)
        return _input_of_last_layer(native, x)


def _native_timm(backbone: TimmBackbone) -> nn.Module:
    fixed = backbone.model.pretrained_cfg["fixed_input_size"]
    return timm.create_model(
        backbone.name, num_classes=7, **({"img_size": backbone.preprocessing.size} if fixed else {})
    )


def _native_torchvision(backbone: TorchvisionBackbone) -> nn.Module:
    options = {"vit": "image_size", "goog": "init_weights", "ince": "init_weights"}
    chosen = {key: backbone.preprocessing.size for prefix, key in options.items() if backbone.name.startswith(prefix)}
    return torchvision.models.get_model(backbone.name, weights=None, num_classes=7, **chosen)


def _input_of_last_layer(native: nn.Module, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    last = [module for module in native.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    native(x)
    return seen[0].mean((2, 3)) if seen[0].ndim == 4 else seen[0]


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_torchvision_classification_model_has_groups(name: str) -> None:
    if name.startswith("regnet"):
        pytest.skip("torchvision computes its widths with tensors, which the meta device has not")
    with torch.device("meta"):
        backbone = TorchvisionBackbone(name)
    groups = [tensors(group) for group in backbone.layer_groups.values()]
    assert len(groups) >= 3
    assert sum(map(len, groups)) == len(tensors(backbone))
    published = torchvision.models.get_model_weights(name)
    assert backbone.published_weights()[0] == published["DEFAULT"].name
    assert set(backbone.published_weights()) == {member.name for member in published}


@pytest.mark.parametrize(
    "name", [n for n in torchvision.models.list_models(module=torchvision.models) if "regnet" in n]
)
def test_every_regnet_has_groups(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for drawing in ("normal_", "kaiming_uniform_", "uniform_", "zeros_", "ones_"):  # of up to 645 million weights
        monkeypatch.setattr(nn.init, drawing, lambda tensor, *_, **__: tensor)
    assert list(TorchvisionBackbone(name).layer_groups) == ["stem", "stage1", "stage2", "stage3", "stage4"]


@pytest.mark.parametrize("key", READING)
def test_padding_and_the_other_texts_of_a_batch_change_nothing(key: str) -> None:
    torch.manual_seed(0)
    backbone = smallest(CONFIGS[key])
    x = images(backbone, 4)
    x[1] = 0
    short = x[3:4]
    assert short[0, -1] == 0
    with torch.no_grad():
        found = backbone(x)
        torch.testing.assert_close(backbone(short), found[3:4])
        assert found.isfinite().all(), "a text without tokens too"
        assert not torch.allclose(found[0], found[2])


@pytest.mark.parametrize("name", HEARING)
def test_the_other_sounds_of_a_batch_change_nothing(name: str) -> None:
    torch.manual_seed(0)
    backbone = smallest(CONFIGS[f"hugging_face_audio-{name}"])
    x = images(backbone, 4)
    x[1] = 0
    with torch.no_grad():
        found = backbone(x)
        torch.testing.assert_close(backbone(x[3:4]), found[3:4])
        assert found.isfinite().all(), "silence too"


@pytest.mark.parametrize("path", sorted((CONF / "backbone").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_first_line_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    """Of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_split_over_processes_it_computes_and_learns_the_same(backbone: Backbone, mesh: DeviceMesh) -> None:
    x, whole, split = images(backbone), deepcopy(backbone), deepcopy(backbone)
    shard(split, split.units(), mesh)
    assert all(isinstance(parameter, DTensor) for parameter in split.parameters())
    outputs = [network.forward_from(0, x) for network in (whole, split)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().mean().backward()
    expected = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in split.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys() != set()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].full_tensor(), gradient, msg=name)
    state = split.state_dict()
    assert all(torch.equal(state[name], value) for name, value in whole.state_dict().items())
