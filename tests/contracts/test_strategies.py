"""Every strategy of `conf` on every backbone of `conf`."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import yaml
from conf_plugins import CONF, build, has_placeholder, load, names
from omegaconf import OmegaConf

from graft.errors import UserError
from graft.models.backbones.base import Backbone
from graft.models.heads.linear import LinearHead
from graft.models.heads.ridge import RidgeHead
from graft.models.mappings.affine import AffineMapping
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network
from graft.strategies.engine import apply_phase, parameter_groups, train_modes
from graft.strategies.phases import Strategy
from graft.strategies.plan import plan_table
from graft.strategies.rules import has_statistics, is_norm
from graft.strategies.written import written_out

STRATEGIES = names("strategy")
BACKBONES = [name for name in names("backbone") if not has_placeholder(load("backbone", name))]


@cache
def backbone(name: str) -> Backbone:
    """Without memory where that is possible: only names and shapes matter here."""
    config = load("backbone", name)
    try:
        with torch.device("meta"):
            return build(config)
    except NotImplementedError:  # it computes with its initial weights
        return build(config)


def strategy(name: str) -> Strategy:
    config = load("strategy", name)
    assert config["_target_"] == "graft.strategies.phases.Strategy"
    return build(config)


def has_norm(network: Network) -> bool:
    return any(is_norm(module) for module in network.modules())


def keeps_statistics(network: Network) -> bool:
    return any(has_statistics(module) for module in network.modules())


def test_there_are_strategies_and_backbones() -> None:
    assert len(STRATEGIES) >= 10
    assert len(BACKBONES) >= 5


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_called_what_its_file_is_called_and_says_what_it_does(name: str) -> None:
    assert strategy(name).name == name
    assert (CONF / "strategy" / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("backbone_name", BACKBONES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_fits_every_backbone(name: str, backbone_name: str) -> None:
    body = backbone(backbone_name)
    network = Network(body, IdentityMapping(body.num_features), LinearHead(body.num_features, 3))
    parsed = strategy(name).parsed
    needs_norm = any(rule.pattern == "<norm>" for phase in parsed for rule in phase.rules)
    needs_statistics = any(phase.recalibrate for phase in parsed)
    if (needs_norm and not has_norm(network)) or (needs_statistics and not keeps_statistics(network)):
        with pytest.raises(UserError, match="no normalisation layers"):
            strategy(name).resolve(network, max_epochs=12)
        return
    if name == "bias_only" and not any(path.endswith("bias") for path, _ in body.named_parameters()):
        with pytest.raises(UserError, match="this backbone has no biases; use strategy=linear_probe"):
            strategy(name).resolve(network, max_epochs=12)
        return
    parameters = [path for path, _, _ in network.named_group_parameters()]
    phases = strategy(name).resolve(network, max_epochs=12)
    assert sum(phase.max_epochs for phase in phases) == 12
    for phase in phases:
        assert phase.max_epochs >= 1
        assert [entry.name for entry in phase.assignments] == parameters
        head = {path for path in parameters if path.startswith("head.")}
        assert head.isdisjoint(phase.trained_names) if name == "freeze_head" else head <= phase.trained_names
        apply_phase(network, phase)
        groups = parameter_groups(network, phase, lr=0.1, weight_decay=0.01)
        assert len({group["name"] for group in groups}) == len(groups)
        assert sorted(path for group in groups for path in group["param_names"]) == sorted(phase.trained_names)
        assert all(0 < group["lr"] <= 0.1 for group in groups)
        modes = train_modes(network, phase)
        for group, module in network.named_groups().items():
            if group not in phase.trained_groups and list(module.parameters()):
                assert not any(modes[part] for part in module.modules() if part in modes)
    assert len({phase.name for phase in phases}) == len(phases)


@pytest.mark.parametrize("backbone_name", BACKBONES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_written_out_every_strategy_does_the_same(name: str, backbone_name: str) -> None:
    """With the groups of `groups: auto` given, since nothing else can be written down of them."""
    body = backbone(backbone_name)
    network = Network(body, AffineMapping(body.num_features), LinearHead(body.num_features, 3))
    original = strategy(name)
    if original.groups == "auto":
        original = replace(original, groups=[-1])
    try:
        expected = original.resolve(network, max_epochs=12)
    except UserError:  # it needs norm layers that this backbone has not
        return
    text = yaml.safe_dump(written_out(original, "mine", network, 12), default_flow_style=None, sort_keys=False)
    written = Strategy(**OmegaConf.to_container(OmegaConf.create(text)))
    assert written.resolve(network, max_epochs=12) == expected
    assert (written.name, written.initialize, written.groups) == ("mine", original.initialize, ())
    assert all(phase.repeat is None for phase in written.parsed)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_takes_closed_form_heads_and_trained_mappings(name: str) -> None:
    body = backbone("resnet20")
    for mapping, head in (
        (IdentityMapping(body.num_features), RidgeHead(body.num_features, 3)),
        (AffineMapping(body.num_features), RidgeHead(body.num_features, 3)),
        (AffineMapping(body.num_features), LinearHead(body.num_features, 3)),
    ):
        network = Network(body, mapping, head)
        phases = strategy(name).resolve(network, max_epochs=20)
        assert plan_table(network, phases, lr=0.1, weight_decay=0.0)
        has_mapping = isinstance(mapping, AffineMapping)
        assert all(("mapping" in phase.trained_groups) == has_mapping for phase in phases)
        given = replace(strategy(name), groups=["stem"]) if strategy(name).groups == "auto" else strategy(name)
        written = Strategy(**written_out(given, "mine", network, 20))
        assert written.resolve(network, max_epochs=20) == given.resolve(network, max_epochs=20)


@pytest.mark.parametrize("name", STRATEGIES)
def test_too_few_epochs_are_refused_with_the_number_needed(name: str) -> None:
    body = backbone("resnet56")
    network = Network(body, IdentityMapping(body.num_features), LinearHead(body.num_features, 3))
    num_phases = len(strategy(name).resolve(network, max_epochs=100))
    assert all(phase.max_epochs == 1 for phase in strategy(name).resolve(network, num_phases))
    with pytest.raises(UserError, match=f"need at least {num_phases} epochs; max_epochs is {num_phases - 1}"):
        strategy(name).resolve(network, num_phases - 1)
