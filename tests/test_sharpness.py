"""Sharpness-aware minimisation: the step of the paper, from the weights themselves, and norm statistics of one pass."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import network, stage, tiny_domain, training
from scipy.special import softmax

from graft.averaging import State
from graft.models.network import Network
from graft.regularisers.sam import SAM
from graft.stage import fit_stage
from graft.strategies.schedules import Constant

RHO = 0.3


def fitted(folder: Path, net: Network, how: str, lr: float, rho: float | None = RHO, **settings: Any) -> State:
    """The network's state after one epoch."""
    optimizer = partial(torch.optim.SGD, lr=lr)
    trained = training(how, 1, optimizer, Constant(), **settings)
    trained = replace(trained, regularisers={"sam": SAM(rho)} if rho else {})
    domain = tiny_domain(folder, batch_size=1000 if lr else 16, val_fraction=0.0)
    return fit_stage(stage(folder / f"stage{rho}", domain, trained), net).last


def test_a_step_is_the_papers(tmp_path: Path) -> None:
    """One step on the whole training set, of a softmax regression on fixed features, by hand."""
    net = network()
    domain = tiny_domain(tmp_path, batch_size=1000, val_fraction=0.0)
    [batch] = domain.loader("train")
    with torch.no_grad():
        f = net.double().backbone(domain.view.evaluate(batch.x).double()).numpy()
    inputs = np.concatenate([f, np.ones((len(f), 1))], axis=1)
    labels = np.eye(3)[batch.y.numpy()]
    w = np.concatenate(
        [net.head.linear.weight.detach().numpy(), net.head.linear.bias.detach().numpy()[:, None]], axis=1
    )

    def gradient(weights: np.ndarray) -> np.ndarray:
        return (softmax(inputs @ weights.T, axis=1) - labels).T @ inputs / len(inputs)

    g = gradient(w)
    expected = w - 0.5 * gradient(w + RHO * g / np.sqrt((g * g).sum()))
    last = fitted(tmp_path, net, "linear_probe", 0.5, precision="64-true")
    np.testing.assert_allclose(last["head.linear.weight"], expected[:, :-1], rtol=1e-9)
    np.testing.assert_allclose(last["head.linear.bias"], expected[:, -1], rtol=1e-9)
    assert np.abs(expected - (w - 0.5 * g)).max() > 1e-4  # a plain step goes elsewhere


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}])
def test_weights_come_back_and_norm_statistics_are_of_one_pass(tmp_path: Path, settings: dict[str, int]) -> None:
    start = {name: tensor.clone() for name, tensor in network("resnet20").state_dict().items()}
    aware = fitted(tmp_path, network("resnet20"), "fine_tune", 0.0, **settings)
    plain = fitted(tmp_path, network("resnet20"), "fine_tune", 0.0, rho=None, **settings)
    assert all(torch.equal(aware[name], plain[name]) for name in plain)
    moved = {name for name in start if not torch.equal(aware[name], start[name])}
    assert moved
    assert all("running" in name or "num_batches" in name for name in moved)
