"""Every adapter of `conf` on a plain network, a ResNet, a MobileNet and a ViT, under every strategy."""

import copy
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from builders import small_mobilenet, tiny_vit
from conf_plugins import build, load, names
from torch import Tensor, nn

from graft.errors import UserError
from graft.models.adapters.base import Adapter, merged
from graft.models.adapters.layers import Targets
from graft.models.adapters.saved import load_adapter, save_adapter
from graft.models.backbones.base import Backbone
from graft.models.backbones.cnn import Cnn
from graft.models.backbones.resnet_cifar import ResNetCifar
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network, initial_weights
from graft.strategies.engine import apply_phase, make_optimizer
from graft.strategies.phases import Strategy

SIZE = 32
ADAPTERS = [name for name in names("adapter") if name != "none"]
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "cnn": Cnn,
    "resnet20": lambda: ResNetCifar(depth=20),
    "mobilenet_v2": small_mobilenet,
    "vit": tiny_vit,
}
# What has no layer for the adapter, and why.
REFUSED = {
    ("resnet20", "vera"): "convolutions, which VeRA does not take",
    ("resnet20", "oft"): "convolutions larger than 1x1",
    ("mobilenet_v2", "vera"): "convolutions, which VeRA does not take",
}
SGD = partial(torch.optim.SGD, lr=1e-6, momentum=0.9, weight_decay=0.1)
PAIRS = [(body, name) for body in BACKBONES for name in ADAPTERS if (body, name) not in REFUSED]


def adapter(name: str) -> Adapter:
    config = load("adapter", name)
    if "targets" in config:
        config["targets"] = Targets(**{key: value for key, value in config["targets"].items() if key != "_target_"})
    made: Adapter = build(config)
    return made


@cache
def plain(body: str) -> Backbone:
    """A backbone whose norm layers hold the statistics of some batch, without which a deep one forgets its input."""
    with initial_weights(0, body):
        backbone = BACKBONES[body]()
        norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
        momentum = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            backbone.train()(torch.randn(8, 3, SIZE, SIZE))
        for norm, before in zip(norms, momentum, strict=True):
            norm.momentum = before
    return backbone.eval()


def adapted(body: str, name: str) -> Network:
    """With an adapter whose weights are as they start."""
    backbone = copy.deepcopy(plain(body))
    with initial_weights(0, "adapter"):
        backbone = adapter(name).adapt(backbone, SIZE)
    head = LinearHead(backbone.num_features, 3)
    return Network(backbone, IdentityMapping(backbone.num_features), head).eval()


def moved(network: Network) -> Network:
    """With adapter and head somewhere else."""
    generator = torch.Generator().manual_seed(1)
    fixed = network.fixed_names
    with torch.no_grad():
        for name, _, parameter in network.named_group_parameters():
            if name not in fixed:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def images(num: int = 4) -> Tensor:
    return torch.randn(num, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


def close(first: Tensor, second: Tensor, tolerance: float = 1e-4) -> bool:
    """Equal but for rounding, relative to the largest value."""
    return bool((first - second).abs().max() <= tolerance * second.abs().max())


@pytest.mark.parametrize("body", BACKBONES)
@pytest.mark.parametrize("name", ADAPTERS)
def test_what_does_not_fit_is_refused_with_the_reason(name: str, body: str) -> None:
    if (body, name) not in REFUSED:
        assert adapted(body, name).backbone.adaptation is not None
        return
    with pytest.raises(UserError, match=f"adapter={name}: no layer of {body} can take it: .*{REFUSED[body, name]}"):
        adapted(body, name)


@pytest.mark.parametrize(("body", "name"), PAIRS)
@torch.no_grad()
def test_it_changes_nothing_at_the_start(body: str, name: str) -> None:
    network = adapted(body, name)
    unchanged = close(network.backbone(images()), plain(body)(images()))
    assert unchanged == (name != "side_tuning")  # whose side network takes half from the start
    assert not close(moved(network).backbone(images()), plain(body)(images()))


@pytest.mark.parametrize(("body", "name"), PAIRS)
def test_what_it_brings_lies_in_layer_groups_and_all_else_is_fixed(body: str, name: str) -> None:
    network, own = adapted(body, name), dict(plain(body).named_parameters())
    adaptation = network.backbone.adaptation
    assert adaptation is not None
    parameters = {key: parameter for key, _, parameter in network.named_group_parameters()}
    assert {f"backbone.{key}" for key in adaptation.added} | network.fixed_names == {
        key for key in parameters if key.startswith("backbone.")
    }
    assert sum(parameters[key].numel() for key in network.fixed_names) == sum(p.numel() for p in own.values())
    groups = set(plain(body).layer_groups) | ({"side"} if name == "side_tuning" else set())
    assert {key.partition(".")[0] for key in adaptation.added} <= groups
    assert {id(p) for p in network.parameters()} >= {id(p) for p in parameters.values()}


@pytest.mark.parametrize(("body", "name"), PAIRS)
@torch.no_grad()
def test_merged_is_unmerged_in_a_plain_backbone(body: str, name: str) -> None:
    network, x = moved(adapted(body, name)).double(), images().double()
    expected, state = network.backbone(x), copy.deepcopy(network.state_dict())
    result = merged(network.backbone)
    if not adapter(name).mergeable:
        assert result is network.backbone
        return
    assert result.adaptation is None
    fresh = BACKBONES[body]().double().eval()
    fresh.load_state_dict(result.state_dict())
    assert close(fresh(x), expected, tolerance=1e-9)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(("body", "name"), PAIRS)
@torch.no_grad()
def test_a_saved_adapter_computes_the_same_on_a_fresh_backbone(body: str, name: str, tmp_path: Path) -> None:
    network = moved(adapted(body, name))
    for key, buffer in network.named_buffers():  # norm statistics of the target
        if key.endswith("running_mean"):
            buffer += 0.1
    save_adapter(network, tmp_path / "adapter.safetensors")
    fresh = adapted(body, name)
    load_adapter(fresh, tmp_path / "adapter.safetensors")
    assert torch.equal(fresh(images()), network(images()))
    own = sum(p.nbytes for p in plain(body).parameters())
    own_size = name in ("side_tuning", "bottleneck") or (body, name) == ("vit", "adalora")  # rank 12 of width 16
    if not own_size:
        assert (tmp_path / "adapter.safetensors").stat().st_size < own


@pytest.mark.parametrize(("body", "name"), PAIRS)
def test_every_strategy_trains_it_or_says_why_not(body: str, name: str) -> None:
    network = adapted(body, name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fixed = {id(parameter) for key, _, parameter in network.named_group_parameters() if key in network.fixed_names}
    kept = [key for key, value in network.state_dict(keep_vars=True).items() if id(value) in fixed]
    trained, refusals = 0, []
    for strategy_name in names("strategy"):
        strategy: Strategy = build(load("strategy", strategy_name))
        try:
            phases = strategy.resolve(network, max_epochs=12)
        except UserError as error:
            refusals.append(str(error))
            continue
        trained += 1
        adapter_phases = [
            phase for phase in phases if any(key not in network.fixed_names for key in phase.trained_names)
        ]
        apply_phase(network, adapter_phases[-1])
        optimizer = make_optimizer(network, adapter_phases[-1], SGD)
        network(images()).square().sum().backward()
        received = {key for key, _, parameter in network.named_group_parameters() if parameter.grad is not None}
        assert received == adapter_phases[-1].trained_names
        optimizer.step()
        assert not adapter_phases[-1].trained_names & network.fixed_names
    assert trained >= 8
    reasons = (f"trains nothing that adapter={name} brings", "no normalisation layers", "earlier rules take all")
    assert all(any(reason in text for reason in reasons) for text in refusals)
    assert any(text.startswith("strategy 'linear_probe': it trains nothing") for text in refusals)
    after = network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in kept)
    assert kept
