"""Statistics over all images at once, and what the freeze boundary and a resumed stage make of them."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import network, stage, strategy, tiny_domain, training
from torch import nn

from graft.data.domain import Domain
from graft.features import FeatureCache, Inference
from graft.models.network import Network
from graft.recalibration import averaging_statistics, recalibrate, reestimate
from graft.records.store import Store
from graft.stage import fit_stage
from graft.strategies.phases import Strategy

CPU = Inference(torch.device("cpu"))


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return tiny_domain(tmp_path)


def all_images(domain: Domain) -> torch.Tensor:
    return torch.cat([domain.view.evaluate(batch.x) for batch in domain.loader("train")])


def norms(net: Network) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def test_eval_mode_is_then_train_mode_on_one_batch_of_all_images(tmp_path: Path) -> None:
    domain = tiny_domain(tmp_path, labels_per_class=7)  # batches of 11 and 10
    net = network("resnet20").double()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    recalibrate(net.backbone, domain, replace(CPU, dtype=torch.float64))
    assert [len(batch.x) for batch in domain.loader("train")] == [11, 10]
    whole = copy.deepcopy(net).train()
    inputs: dict[nn.Module, torch.Tensor] = {}
    for module in norms(whole):
        module.register_forward_pre_hook(lambda module, given: inputs.__setitem__(module, given[0]))
    images = all_images(domain).double()
    torch.testing.assert_close(net.backbone.eval()(images), whole.backbone(images), rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(norms(net), norms(whole), strict=True):
        values = inputs[theirs].transpose(0, 1).flatten(1)
        torch.testing.assert_close(ours.running_mean, values.mean(1), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.running_var, values.var(1, correction=0), rtol=1e-9, atol=1e-9)
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.endswith(("running_mean", "running_var"))}


def test_modes_and_generators_are_left_as_they_were(domain: Domain) -> None:
    net = network("resnet20").train()
    net.backbone.layer_groups["stage1"].eval()
    modes, generator = [module.training for module in net.modules()], torch.get_rng_state()
    recalibrate(net.backbone, domain, CPU)
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("cached", [True, False])
def test_a_probe_on_recalibrated_statistics(tmp_path: Path, domain: Domain, cached: bool) -> None:
    """Only statistics of the backbone move, to the same values, with and without cached features."""
    expected = network("resnet20")
    recalibrate(expected.backbone, domain, CPU)
    cache = FeatureCache(Store(tmp_path / "store"), limit=2**30) if cached else None
    fitted = fit_stage(stage(tmp_path / "a", domain, training("adabn", 2), cache=cache), network("resnet20"))
    for name, tensor in expected.backbone.state_dict().items():
        assert torch.equal(fitted.last[f"backbone.{name}"], tensor), name
    plain = fit_stage(stage(tmp_path / "b", domain, training("adabn", 2)), network("resnet20"))
    assert all(torch.equal(fitted.last[name], tensor) for name, tensor in plain.last.items())
    again = fit_stage(stage(tmp_path / "b", domain, training("adabn", 2)), network("resnet20", seed=0))
    assert all(torch.equal(again.last[name], tensor) for name, tensor in plain.last.items())


def test_training_statistics_move_the_boundary_of_what_is_cached(tmp_path: Path, domain: Domain) -> None:
    [probe] = strategy("linear_probe").phases
    moving = Strategy("probe", [dict(probe) | {"norm_statistics": "train"}])  # type: ignore[call-overload]
    how = replace(training("linear_probe", 1), strategy=moving)
    cache = FeatureCache(Store(tmp_path / "store"), limit=2**30)
    fitted = fit_stage(stage(tmp_path / "a", domain, how, cache=cache), network("resnet20"))
    assert not list(cache.store.root.glob("features/*/*/manifest.json"))
    before = network("resnet20").state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(fitted.last[name], tensor)}
    statistics = {name for name in before if name.rpartition(".")[2].startswith(("running", "num_batches"))}
    assert moved == statistics | {"head.linear.weight", "head.linear.bias"}


def test_reestimated_statistics_of_one_batch_are_those_of_train_mode(tmp_path: Path) -> None:
    domain = tiny_domain(tmp_path, batch_size=64)
    net = network("resnet20").double()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    reestimate(net, domain, replace(CPU, dtype=torch.float64))
    whole = copy.deepcopy(net).train()
    for module in norms(whole):
        module.momentum = 1.0
    whole(all_images(domain).double())
    for ours, theirs in zip(norms(net), norms(whole), strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-9, atol=1e-9)
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.endswith(("running_mean", "running_var"))}


def test_averaged_statistics_are_the_mean_over_batches_whatever_they_were() -> None:
    layer = nn.BatchNorm1d(3, momentum=0.2).eval()
    layer.running_mean.fill_(7.0)  # type: ignore[union-attr]
    layer.num_batches_tracked += 5  # type: ignore[operator]
    batches = torch.randn(4, 10, 3).unbind()
    with averaging_statistics([layer]):
        for batch in batches:
            layer(batch)
    torch.testing.assert_close(layer.running_mean, torch.stack([batch.mean(0) for batch in batches]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([batch.var(0) for batch in batches]).mean(0))
    assert (layer.training, layer.momentum, int(layer.num_batches_tracked)) == (False, 0.2, 5)  # type: ignore[arg-type]
