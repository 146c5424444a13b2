"""Relative gradient norms against a gradient taken by hand, and the choice that a stage makes of them."""

from pathlib import Path

import pytest
import torch
from builders import Interrupt, network, stage, tiny_domain, training
from pytorch_lightning import Callback

from graft.data.domain import Domain
from graft.features import Inference
from graft.gradients import relative_gradient_norms
from graft.objectives.supervised import CrossEntropy
from graft.records.files import atomic_write_json, read_json
from graft.stage import GROUPS, Fitted, fit_stage

CPU = Inference(torch.device("cpu"))


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return tiny_domain(tmp_path)


def test_norms_are_those_of_the_gradient_over_all_images(domain: Domain) -> None:
    net = network("resnet20").double()
    norms = relative_gradient_norms(net, domain, CrossEntropy(), Inference(CPU.device, torch.float64), seed=3)
    batches = list(domain.loader("train"))
    x = torch.cat([domain.view.evaluate(batch.x) for batch in batches]).double()
    y = torch.cat([batch.y for batch in batches])
    logits = net.eval()(x)
    (-logits.log_softmax(1)[torch.arange(len(y)), y].mean()).backward()
    for name, group in net.backbone.layer_groups.items():
        gradient = torch.cat([parameter.grad.flatten() for parameter in group.parameters()])
        weights = torch.cat([parameter.detach().flatten() for parameter in group.parameters()])
        assert norms[name] == pytest.approx(float(gradient.norm() / weights.norm()), rel=1e-6)


def test_measuring_changes_nothing(domain: Domain) -> None:
    net = network("resnet20").train()
    net.backbone.layer_groups["stem"].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags, generator = [parameter.requires_grad for parameter in net.parameters()], torch.get_rng_state()
    relative_gradient_norms(net, domain, CrossEntropy(), CPU, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(module.training for module in net.modules())
    assert torch.equal(torch.get_rng_state(), generator)


def fit(folder: Path, domain: Domain, *callbacks: Callback) -> Fitted:
    return fit_stage(stage(folder, domain, training("surgical_auto", 4, callbacks=callbacks)), network("resnet20"))


def test_the_largest_is_tuned_and_resumes_bit_equal(
    tmp_path: Path, domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = fit(tmp_path / "a", domain)
    norms = undisturbed.chosen["relative_gradient_norms"]
    [chosen] = undisturbed.chosen["groups"]
    assert norms[chosen] == max(norms.values())
    start = network("resnet20").state_dict()
    moved = {name for name, tensor in start.items() if not torch.equal(tensor, undisturbed.last[name])}
    assert {name.split(".")[1] for name in moved if name.startswith("backbone.")} == {chosen}
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "b", domain, Interrupt(2))
    monkeypatch.setattr("graft.stage.relative_gradient_norms", lambda *_: pytest.fail("measured again"))
    assert (tmp_path / "b" / GROUPS).exists()
    found = read_json(tmp_path / "b" / GROUPS)
    atomic_write_json(tmp_path / "b" / GROUPS, found | {"seconds": 1000.0 + found["seconds"]})
    resumed = fit(tmp_path / "b", domain)
    assert undisturbed.solving_seconds > 0
    assert resumed.solving_seconds > 1000  # the measuring is part of the stage also where it was done before
    assert resumed.chosen == undisturbed.chosen
    assert all(torch.equal(resumed.last[name], tensor) for name, tensor in undisturbed.last.items())
