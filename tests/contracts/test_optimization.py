"""Every optimiser, schedule and objective of `conf` trains a network."""

from collections.abc import Callable
from functools import partial
from importlib import import_module

import pytest
import torch
from conf_plugins import CONF, build, load, names
from torch.optim import Optimizer

from graft.models.backbones.cnn import Cnn
from graft.models.heads.linear import LinearHead
from graft.models.mappings.affine import AffineMapping
from graft.models.network import Network
from graft.objectives.supervised import Outputs
from graft.strategies.engine import apply_phase, make_optimizer, set_learning_rates
from graft.strategies.phases import Strategy


def optimizer_factory(name: str) -> Callable[..., Optimizer]:
    config = load("optimizer", name)
    assert config.pop("_partial_")
    module, _, target = config.pop("_target_").rpartition(".")
    return partial(getattr(import_module(module), target), **config)


def cnn() -> Network:
    torch.manual_seed(0)
    return Network(Cnn(channels=1), AffineMapping(84), LinearHead(84, 4))


@pytest.mark.parametrize("group", ["optimizer", "scheduler", "objective", "strategy"])
def test_every_file_opens_with_what_it_is(group: str) -> None:
    assert names(group)
    for name in names(group):
        assert (CONF / group / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("name", names("optimizer"))
def test_optimizers_lower_the_loss(name: str) -> None:
    network = cnn()
    [phase] = Strategy("all", [{"name": "all", "rules": {".*": {}}}]).resolve(network, max_epochs=1)
    apply_phase(network, phase)
    optimizer = make_optimizer(network, phase, optimizer_factory(name))
    x, y = torch.randn(16, 1, 32, 32), torch.arange(16) % 4
    losses = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), y)
        loss.backward()
        losses.append(loss.item())
        return losses[-1]

    for _ in range(10):
        set_learning_rates(optimizer, 1.0)
        optimizer.step(closure)
    assert closure() < losses[0]


@pytest.mark.parametrize("name", names("scheduler"))
def test_schedules_are_functions_of_the_step(name: str) -> None:
    schedule = build(load("scheduler", name))
    trace = [schedule(step, 50) for step in range(50)]
    assert trace == [schedule(step, 50) for step in range(50)]
    assert all(0.0 <= factor <= 1.0 for factor in trace)
    assert max(trace) > 0.9


@pytest.mark.parametrize("name", names("objective"))
def test_objectives_give_named_scalars_with_a_gradient(name: str) -> None:
    objective = build(load("objective", name))
    logits = torch.randn(6, 4, requires_grad=True)
    for y in (torch.arange(6) % 4, torch.full((6, 4), 0.25)):
        for progress in (0.0, 0.5, 1.0):
            terms = objective(Outputs(logits=logits, features=logits), y, progress)
            assert all(isinstance(term_name, str) and term.shape == () for term_name, term in terms.items())
            [gradient] = torch.autograd.grad(sum(terms.values()), logits)
            assert gradient.isfinite().all()
            assert gradient.any()
