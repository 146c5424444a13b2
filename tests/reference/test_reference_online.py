"""Methods that adapt while they predict, against loops of their own on a network small enough to be written out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import stage, tiny_domain, training
from conf_plugins import build, load
from torch import Tensor, nn

from graft.after.base import Finished
from graft.after.online import Online
from graft.data.augment import Augmentation
from graft.data.domain import Domain
from graft.data.preprocessing import Preprocessing
from graft.data.view import View
from graft.models.backbones.base import Overrides, SequentialBackbone
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network
from graft.seeds import stable_seed

NUM_FEATURES, LR = 6, 0.02
Weights = list[Tensor]  # W, b of the layer, scale and shift of the norm layer, V, c of the head


class Normalised(SequentialBackbone):
    """relu(scale * normalised(W x + b) + shift) of flattened images."""

    def __init__(self) -> None:
        layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, NUM_FEATURES), nn.BatchNorm1d(NUM_FEATURES))
        preprocessing = Preprocessing(size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
        super().__init__({"only": layers.append(nn.ReLU())}, NUM_FEATURES, preprocessing, Overrides())


def forward(weights: Weights, x: Tensor, moments: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Features and logits, normalised by the batch or by given moments."""
    w, b, scale, shift, v, c = weights
    z = x.flatten(1) @ w.T + b
    mean, variance = (z.mean(dim=0), z.var(dim=0, correction=0)) if moments is None else moments
    features = (scale * (z - mean) / (variance + 1e-5).sqrt() + shift).clamp(min=0)
    return features, features @ v.T + c


class Adam:
    """Kingma and Ba, ICLR 2015, algorithm 1."""

    def __init__(self, parameters: Weights) -> None:
        self.parameters, self.t = parameters, 0
        self.m, self.v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))

    def step(self, loss: Tensor) -> None:
        self.t += 1
        for i, gradient in enumerate(torch.autograd.grad(loss, self.parameters)):
            self.m[i] = 0.9 * self.m[i] + 0.1 * gradient
            self.v[i] = 0.999 * self.v[i] + 0.001 * gradient**2
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            self.parameters[i].data -= LR * m / (v.sqrt() + 1e-8)


def entropy(logits: Tensor) -> Tensor:
    p = logits.softmax(dim=1)
    return -(p * p.log()).sum(dim=1)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    return tiny_domain(tmp_path_factory.mktemp("online"), val_fraction=0.0)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    net = Network(Normalised(), IdentityMapping(NUM_FEATURES), LinearHead(NUM_FEATURES, 3)).double()
    with torch.no_grad():
        net.head.linear.weight *= 4  # some predictions are sure
        for buffer in net.backbone.buffers():
            if buffer.is_floating_point():
                buffer += 0.5 * torch.rand_like(buffer)
    return net


def method(name: str, **settings: Any) -> Online:
    node = load("after", name)[name]
    if "augmentation" in node:
        settings = {"augmentation": build(node["augmentation"])} | settings
    return build(node | {"seed": 3, "batch_size": 11} | settings)


def predicted(method: Online, domain: Domain, network: Network, folder: Path) -> Tensor:
    """The logits in the order of the stream, whose labels are those of the reference's stream."""
    finished = Finished(stage(folder, domain, training()), network, lambda network: None, lambda name: None)
    logits, labels = method.predictions(finished, "test")
    assert torch.equal(labels, domain.datasets["test"].labels[np.concatenate(list(stream()))])
    return logits


def stream() -> Iterator[np.ndarray]:
    """30 images in 3 batches of 11 at most, in the order of the seed."""
    rng = np.random.default_rng(stable_seed(stable_seed(3, "stream", "test"), 0))
    yield from np.array_split(rng.permutation(30), 3)


def batches(domain: Domain) -> Iterator[Tensor]:
    for positions in stream():
        yield domain.view.evaluate(domain.datasets["test"][positions].x).double()


def copied(network: Network) -> Weights:
    return [parameter.detach().clone() for parameter in network.parameters()]


def assert_same(found: Tensor, expected: list[Tensor]) -> None:
    torch.testing.assert_close(found.double(), torch.cat(expected).detach(), rtol=1e-5, atol=1e-5)


def test_tent(domain: Domain, network: Network, tmp_path: Path) -> None:
    weights, expected = copied(network), []
    adam = Adam([weights[i].requires_grad_() for i in (2, 3)])
    for x in batches(domain):
        expected.append(forward(weights, x)[1])
        adam.step(entropy(expected[-1]).mean())
    assert_same(predicted(method("tent", lr=LR), domain, network, tmp_path), expected)
    assert (torch.cat(expected) - forward(copied(network), torch.cat(list(batches(domain))))[1]).abs().max() > 0.1


def test_eata(domain: Domain, network: Network, tmp_path: Path) -> None:
    settings = {"margin": 0.9, "redundancy": 0.9, "fisher_weight": 50.0, "num_fisher": 7}
    weights, start, expected = copied(network), copied(network), []
    norms = [weights[i].requires_grad_() for i in (2, 3)]
    moments = dict(network.backbone.named_buffers())
    by_name = {name.rpartition(".")[2]: buffer for name, buffer in moments.items()}
    positions = np.random.default_rng(0).permutation(len(domain.datasets["train"]))[:7]
    fisher = [torch.zeros_like(norm) for norm in norms]
    for image in domain.view.evaluate(domain.datasets["train"][positions].x).double():
        _, [logits] = forward(weights, image[None], (by_name["running_mean"], by_name["running_var"]))
        loss = -logits.log_softmax(dim=0).max()
        for total, gradient in zip(fisher, torch.autograd.grad(loss, norms), strict=True):
            total += gradient**2 / 7
    adam, mean, num_chosen = Adam(norms), None, []
    for x in batches(domain):
        logits = forward(weights, x)[1]
        expected.append(logits)
        largest, terms, chosen = 0.9 * np.log(3), [], []
        for row in logits:
            p, h = row.softmax(dim=0).detach(), entropy(row[None])[0]
            if h >= largest or (mean is not None and abs(p @ mean) / p.norm() / mean.norm() >= 0.9):
                continue
            terms.append(torch.exp(largest - h.detach()) * h)
            chosen.append(p)
        num_chosen.append(len(chosen))
        distance = sum((f * (norm - start[i]) ** 2).sum() for f, norm, i in zip(fisher, norms, (2, 3), strict=True))
        if terms:
            of_batch = torch.stack(chosen).mean(dim=0)
            mean = of_batch if mean is None else 0.9 * mean + 0.1 * of_batch
            adam.step(torch.stack(terms).mean() + 50 * distance)
    assert any(0 < num < 10 for num in num_chosen)
    assert_same(predicted(method("eata", lr=LR, **settings), domain, network, tmp_path), expected)


@pytest.mark.parametrize("always_unsure", [True, False])
def test_cotta(domain: Domain, network: Network, tmp_path: Path, always_unsure: bool) -> None:
    """Unsure of the first batch at least: towards a teacher that is the network itself, a step has no direction."""
    sure = [float(forward(copied(network), x)[1].softmax(dim=1).amax(dim=1).mean()) for x in batches(domain)]
    confidence = 1.0 if always_unsure else sure[0] + 1e-6
    assert (max(sure) < confidence) == always_unsure
    weights, teacher, start, expected = copied(network), copied(network), copied(network), []
    adam = Adam([weight.requires_grad_() for weight in weights])
    how = Augmentation(crop_padding=4, contrast=0.5)
    generator = torch.Generator().manual_seed(stable_seed(3, "cotta"))
    for positions, x, own in zip(stream(), batches(domain), sure, strict=True):
        if own < confidence:
            canvases = domain.datasets["test"][positions].x
            views = [View(domain.preprocessing, how, 3).unmixed(canvases, generator).double() for _ in range(2)]
        else:
            views = [x]
        p = torch.stack([forward(teacher, view)[1].softmax(dim=1) for view in views]).mean(dim=0)
        expected.append(p.log())
        adam.step(-(p * forward(weights, x)[1].log_softmax(dim=1)).sum(dim=1).mean())
        for i, weight in enumerate(weights):
            teacher[i] = 0.9 * teacher[i] + 0.1 * weight.detach()
            mask = torch.rand(weight.shape, generator=generator) < 0.3
            weight.data[mask] = start[i][mask]
    settings = {"confidence": confidence, "num_views": 2, "momentum": 0.9, "restoration": 0.3, "augmentation": how}
    assert_same(predicted(method("cotta", lr=LR, **settings), domain, network, tmp_path), expected)


@pytest.mark.parametrize("num_supports", [1, 4, None])
def test_t3a(domain: Domain, network: Network, tmp_path: Path, num_supports: int | None) -> None:
    weights, expected = copied(network), []
    buffers = {name.rpartition(".")[2]: buffer for name, buffer in network.backbone.named_buffers()}
    v, c = weights[4:]
    supports: dict[int, list[tuple[float, Tensor]]] = {
        label: [(float(entropy((v @ row + c)[None])), row / row.norm())] for label, row in enumerate(v)
    }
    for x in batches(domain):
        features, logits = forward(weights, x, (buffers["running_mean"], buffers["running_var"]))
        for z, row in zip(features, logits, strict=True):
            supports[int(row.argmax())].append((float(entropy(row[None])), z / z.norm().clamp(min=1e-12)))
        for label, pairs in supports.items():
            supports[label] = sorted(pairs, key=lambda pair: pair[0])[:num_supports]
        sums = torch.stack([torch.stack([z for _, z in supports[label]]).sum(dim=0) for label in range(3)])
        expected.append(features @ (sums / sums.norm(dim=1, keepdim=True)).T)
    assert_same(predicted(method("t3a", num_supports=num_supports), domain, network, tmp_path), expected)


@pytest.mark.parametrize("name", ["tent", "eata", "cotta", "t3a"])
def test_a_method_as_it_ships_is_not_the_network_alone(
    name: str, domain: Domain, network: Network, tmp_path: Path
) -> None:
    look: Callable[[Tensor], Tensor] = network.eval()
    alone = torch.cat([look(x).detach() for x in batches(domain)])
    assert (predicted(method(name), domain, network, tmp_path).softmax(dim=1) - alone.softmax(dim=1)).abs().max() > 1e-3
