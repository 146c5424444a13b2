"""Many heads at once: each is the one trained alone, by a plain loop and by a stage; the path is scikit-learn's."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import network, stage, tiny_domain, training
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import cross_entropy

from graft.errors import UserError
from graft.features import Inference, Prefix, extract
from graft.models.heads.linear import LinearHead
from graft.probes import Grid, Heads, Probe, logistic_path, train_heads
from graft.seeds import stable_seed
from graft.stage import fit_stage
from graft.strategies.schedules import Constant, Cosine, OneCycle, Step

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, lr=1.0, weight_decay=1.0),
    "adamw, other betas": partial(torch.optim.AdamW, betas=(0.8, 0.95), eps=1e-6),
    "sgd": torch.optim.SGD,
    "sgd, momentum": partial(torch.optim.SGD, momentum=0.9),
    "sgd, nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}
GRID = Grid(lrs=(1e-3, 1e-2, 0.1), weight_decays=(0.0, 0.1), seeds=(3, 0))


def samples(n: int = 45, d: int = 7, k: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Features [n, d] of unlike scales around one centre a class, and labels [n]."""
    rng = np.random.default_rng(n * d + k)
    labels = rng.permutation(np.arange(n) % k)
    features = (rng.normal(size=(n, d)) + 1.5 * np.eye(k, d)[labels]) * np.geomspace(0.5, 2, d)
    return torch.from_numpy(features).to(dtype), torch.from_numpy(labels)


def initial(seed: int, num_features: int, num_classes: int) -> LinearHead:
    """The head as `graft.pipeline.new_network` makes it."""
    with torch.random.fork_rng():
        torch.manual_seed(stable_seed(seed, "head"))
        return LinearHead(num_features, num_classes)


def alone(
    features: Tensor, labels: Tensor, probe: Probe, kind: Any, schedule: Any, epochs: int, batch: int
) -> LinearHead:
    """One head in the plainest of loops, on batches written down from the definition of their order."""
    head = initial(probe.seed, features.shape[1], int(labels.max()) + 1)
    optimizer = kind(head.parameters(), lr=probe.lr, weight_decay=probe.weight_decay)
    num_batches = -(-len(labels) // batch)
    step = 0
    for epoch in range(epochs):
        order = np.random.default_rng(stable_seed(stable_seed(probe.seed, "order"), epoch)).permutation(len(labels))
        for positions in np.array_split(order, num_batches):
            optimizer.param_groups[0]["lr"] = probe.lr * schedule(step, epochs * num_batches)
            optimizer.zero_grad()
            cross_entropy(head(features[positions]), labels[positions]).backward()
            optimizer.step()
            step += 1
    return head


def close(heads: Heads, index: int, head: LinearHead) -> None:
    torch.testing.assert_close(heads.weight[index], head.linear.weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heads.bias[index], head.linear.bias.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", [Constant(), Cosine(), OneCycle(), Step()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_each_head_is_the_one_trained_alone(kind: Callable[..., torch.optim.Optimizer], schedule: Any) -> None:
    features, labels = samples()
    heads = train_heads(features, labels, 3, GRID, kind, schedule, max_epochs=4, batch_size=16)
    assert heads.weight.shape == (12, 3, 7)
    assert heads.bias.shape == (12, 3)
    for index, probe in enumerate(GRID.probes):
        close(heads, index, alone(features, labels, probe, kind, schedule, 4, 16))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9, nesterov=True)])
def test_each_head_is_what_a_stage_trains(tmp_path: Path, kind: Callable[..., torch.optim.Optimizer]) -> None:
    domain = tiny_domain(tmp_path)
    net = network()
    grid = Grid((1e-3, 1e-2), (0.1,), (0,))
    features = extract(Prefix.whole(net.backbone), domain, "train", Inference(torch.device("cpu")))
    heads = train_heads(features, domain.datasets["train"].labels, 3, grid, kind, Cosine(), 3, domain.batch_size)
    for index, probe in enumerate(grid.probes):
        optimizer = partial(kind, lr=probe.lr, weight_decay=probe.weight_decay)
        net.head.load_state_dict(initial(probe.seed, net.head.num_features, 3).state_dict())
        fit_stage(stage(tmp_path / str(index), domain, training("linear_probe", 3, optimizer)), net)
        close(heads, index, net.head)


def test_a_grid_lists_its_heads_seed_by_seed() -> None:
    assert GRID.probes[:3] == (Probe(1e-3, 0.0, 3), Probe(1e-3, 0.1, 3), Probe(1e-2, 0.0, 3))
    assert {probe.seed for probe in GRID.probes[6:]} == {0}


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(1, 30),
    d=st.integers(1, 5),
    k=st.integers(2, 4),
    batch=st.integers(1, 40),
    lrs=st.lists(st.floats(1e-4, 0.5), min_size=1, max_size=3),
    seeds=st.lists(st.integers(0, 5), min_size=1, max_size=3),
)
def test_other_heads_of_the_grid_change_nothing(
    n: int, d: int, k: int, batch: int, lrs: list[float], seeds: list[int]
) -> None:
    features, labels = samples(n, d, k)
    grid = Grid(tuple(lrs), (0.0, 0.1), tuple(seeds))
    heads = train_heads(features, labels, k, grid, torch.optim.SGD, Constant(), 2, batch)
    assert heads.weight.shape == (len(grid.probes), k, d)
    last = grid.probes[-1]
    single = Grid((last.lr,), (last.weight_decay,), (last.seed,))
    one = train_heads(features, labels, k, single, torch.optim.SGD, Constant(), 2, batch)
    torch.testing.assert_close(heads.weight[-1], one.weight[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heads.bias[-1], one.bias[0], rtol=1e-4, atol=1e-5)


def test_training_leaves_the_global_generator_alone() -> None:
    features, labels = samples()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train_heads(features, labels, 3, GRID, torch.optim.AdamW, Constant(), 1, 16)
    assert torch.equal(torch.get_rng_state(), before)


def test_accuracies_are_those_of_each_head_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.probes.ROWS_AT_ONCE", 10)
    features, labels = samples()
    heads = train_heads(features, labels, 3, GRID, torch.optim.AdamW, Constant(), 3, 16)
    accuracies = heads.accuracies(features, labels)
    assert accuracies.shape == (12,)
    for weight, bias, accuracy in zip(heads.weight, heads.bias, accuracies, strict=True):
        expected = ((features @ weight.T + bias).argmax(dim=1) == labels).float().mean()
        assert float(accuracy) == pytest.approx(float(expected))


@pytest.mark.parametrize("n", [40, 300])
def test_the_path_is_scikit_learns(n: int) -> None:
    features, labels = samples(n, 6, 3, torch.float64)
    strengths = (1e-3, 1.0, 1e-2)
    heads = logistic_path(features, labels, 3, strengths)
    for index, strength in enumerate(strengths):
        model = LogisticRegression(C=1 / (n * strength), tol=1e-10, max_iter=10_000)
        model.fit(features.numpy(), labels.numpy())
        np.testing.assert_allclose(heads.weight[index].numpy(), model.coef_, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(heads.bias[index].numpy(), model.intercept_, rtol=1e-4, atol=1e-6)


def test_two_classes_are_scikit_learns_at_half_the_strength() -> None:
    features, labels = samples(60, 5, 2, torch.float64)
    heads = logistic_path(features, labels, 2, [0.02])
    # One weight vector w = w_1 - w_0 there, with ||w||^2 = 2 ||W||^2.
    model = LogisticRegression(C=1 / (60 * 0.01), tol=1e-10, max_iter=10_000).fit(features.numpy(), labels.numpy())
    difference = heads.weight[0, 1] - heads.weight[0, 0]
    np.testing.assert_allclose(difference.numpy(), model.coef_[0], rtol=1e-4, atol=1e-6)


def test_a_path_gives_what_each_strength_gives_alone() -> None:
    features, labels = samples(80, 6, 3, torch.float64)
    strengths = [1e-4, 1e-2, 1.0]
    path = logistic_path(features, labels, 3, strengths)
    for index, strength in enumerate(strengths):
        single = logistic_path(features, labels, 3, [strength])
        torch.testing.assert_close(path.weight[index], single.weight[0], rtol=1e-4, atol=1e-6)


def test_the_path_in_single_precision_is_near() -> None:
    features, labels = samples(80, 6, 3, torch.float64)
    heads = logistic_path(features.float(), labels, 3, [1e-2])
    expected = logistic_path(features, labels, 3, [1e-2])
    assert heads.weight.dtype == torch.float32
    torch.testing.assert_close(heads.weight.double(), expected.weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (((), (0.0,), (0,)), "lrs is empty"),
        (((0.1,), (), (0,)), "weight_decays is empty"),
        (((0.1,), (0.0,), ()), "seeds is empty"),
        (((0.1, 0.0), (0.0,), (0,)), r"lrs=\[0.1, 0.0\]; expected numbers above 0"),
        (((0.1,), (-1.0,), (0,)), r"weight_decays=\[-1.0\]"),
    ],
)
def test_a_grid_that_cannot_be_trained_is_refused(grid: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Grid(*grid)


def test_what_cannot_be_trained_on_is_refused() -> None:
    features, labels = samples()
    with pytest.raises(UserError, match="labels from 0 to 2; expected class indices below 2"):
        train_heads(features, labels, 2, GRID, torch.optim.AdamW, Constant(), 1, 16)
    with pytest.raises(UserError, match="no samples"):
        train_heads(features[:0], labels[:0], 3, GRID, torch.optim.AdamW, Constant(), 1, 16)
    with pytest.raises(UserError, match="batch_size=0"):
        train_heads(features, labels, 3, GRID, torch.optim.AdamW, Constant(), 1, 0)
    with pytest.raises(UserError, match="RMSprop cannot train many heads at once; use adamw or sgd"):
        train_heads(features, labels, 3, GRID, partial(torch.optim.RMSprop, lr=0.1), Constant(), 1, 16)
    for strengths in ([], [1.0, 0.0]):
        with pytest.raises(UserError, match="expected numbers above 0"):
            logistic_path(features, labels, 3, strengths)
