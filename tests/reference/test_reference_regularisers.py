"""Regularisers against NumPy in float64, each computed from its paper's equation in another way."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from torch import nn

from graft.data.preprocessing import Preprocessing
from graft.features import Inference
from graft.models.backbones.base import Overrides, SequentialBackbone
from graft.models.backbones.cnn import Cnn
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network
from graft.objectives.supervised import Outputs
from graft.probes import folds_of
from graft.regularisers.base import Beginning, Step, Trace
from graft.regularisers.bi_tuning import BiTuning
from graft.regularisers.bss import batch_spectral_shrinkage
from graft.regularisers.co_tuning import (
    STRENGTHS,
    calibrating_scale,
    co_tuning,
    direct_relationship,
    reverse_relationship,
)
from graft.regularisers.delta import behaviour_distance, channel_attention, linear_classifier, loss_increases
from graft.regularisers.ewc import elastic_penalty, fisher_diagonal
from graft.regularisers.feature_distillation import feature_distillation
from graft.regularisers.l2_sp import l2_sp
from graft.regularisers.lwf import knowledge_distillation
from graft.regularisers.stoch_norm import StochNorm, stochastic_normalisation

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


def test_l2_sp() -> None:
    pairs = [(normal(3, 4), normal(3, 4)), (normal(5), normal(5))]
    new = [normal(2, 3)]
    drawn = np.concatenate([(w - w0).ravel() for w, w0 in pairs])
    expected = 0.3 * (drawn @ drawn) / 2 + 0.7 * np.trace(new[0] @ new[0].T) / 2
    tensors = [(torch.from_numpy(w), torch.from_numpy(w0)) for w, w0 in pairs]
    assert float(l2_sp(tensors, map(torch.from_numpy, new), 0.3, 0.7)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 5), (1, 4)])
@pytest.mark.parametrize("num_values", [1, 3])
def test_bss_is_the_smallest_eigenvalues_of_the_gram_matrix(shape: tuple[int, int], num_values: int) -> None:
    f = normal(*shape)
    gram = f @ f.T if shape[0] <= shape[1] else f.T @ f
    expected = np.sort(np.linalg.eigvalsh(gram))[:num_values].sum()
    assert float(batch_spectral_shrinkage(torch.from_numpy(f), num_values)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("with_attention", [False, True])
def test_delta(with_attention: bool) -> None:
    shapes = {"map": (3, 4, 5, 5), "last": (3, 5, 5, 4), "tokens": (3, 6, 4), "features": (3, 4)}
    maps, start = ({name: normal(*shape) for name, shape in shapes.items()} for _ in range(2))
    weights = {name: softmax(normal(4)) if with_attention else np.full(4, 0.25) for name in shapes}
    expected = 0.0
    for name in shapes:
        by_channel = [a if name == "map" else np.moveaxis(a, -1, 1) for a in (maps[name], start[name])]
        for i in range(3):
            for channel in range(4):
                difference = np.ravel(by_channel[0][i, channel] - by_channel[1][i, channel])
                expected += weights[name][channel] * (difference @ difference) / difference.size / 3
    tensors = [{name: torch.from_numpy(value) for name, value in some.items()} for some in (maps, start, weights)]
    found = behaviour_distance(*tensors) if with_attention else behaviour_distance(*tensors[:2])
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_deltas_attention_as_the_authors_compute_it_from_filters_set_to_zero() -> None:
    torch.manual_seed(0)
    backbone = Cnn().double().eval()
    weight, bias = torch.from_numpy(normal(3, 84)), torch.from_numpy(normal(3))
    x, y = torch.from_numpy(normal(6, 3, 32, 32)), np.array([0, 1, 2, 0, 1, 2])

    def loss(features: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(features @ weight.T + bias, torch.from_numpy(y))

    @torch.no_grad()
    def cross_entropy() -> float:
        p = softmax((backbone(x) @ weight.T + bias).numpy(), axis=1)
        return float(-np.log(p[np.arange(6), y]).mean())

    before = cross_entropy()
    for cut, layer in ((1, "stem.conv1"), (3, "stage2.fc1")):
        filters = backbone.get_submodule(layer)
        increases = []
        for channel in range(len(filters.weight)):
            kept = filters.weight[channel].clone(), filters.bias[channel].clone()
            with torch.no_grad():
                filters.weight[channel], filters.bias[channel] = 0.0, 0.0
                increases.append(cross_entropy() - before)
                filters.weight[channel], filters.bias[channel] = kept
        found = loss_increases(backbone, cut, x, loss)
        np.testing.assert_allclose(found.numpy(), increases, rtol=1e-9, atol=1e-12)
        scaled = (np.array(increases) - np.mean(increases)) / np.std(increases)
        np.testing.assert_allclose(channel_attention(found).numpy(), softmax(scaled / 5), rtol=1e-9)


def test_deltas_classifier_is_scikit_learns() -> None:
    features, y = 3 * normal(40, 5) + 1, np.arange(40) % 3
    weight, bias = linear_classifier(torch.from_numpy(features), torch.from_numpy(y), 3)
    scale = np.sqrt(np.mean((features - features.mean(0)) ** 2))
    # ours weighs ||W||^2 of features / scale by 0.01 / 2 beside a mean over 40
    theirs = LogisticRegression(C=1 / (40 * 0.01), tol=1e-10, max_iter=10_000).fit(features / scale, y)
    np.testing.assert_allclose(weight.numpy(), theirs.coef_ / scale, atol=1e-5)
    logits = features @ weight.numpy().T + bias.numpy()
    np.testing.assert_allclose(softmax(logits, axis=1), theirs.predict_proba(features / scale), atol=1e-5)


def test_feature_distillation() -> None:
    f, f0 = normal(4, 5), normal(4, 5)
    expected = np.mean([np.linalg.norm(a - b) ** 2 / 2 for a, b in zip(f, f0, strict=True)])
    assert float(feature_distillation(torch.from_numpy(f), torch.from_numpy(f0))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_lwf_as_the_paper_writes_its_probabilities(temperature: float) -> None:
    logits, start = normal(4, 6), normal(4, 6)

    def heated(values: np.ndarray) -> np.ndarray:
        p = softmax(values, axis=1) ** (1 / temperature)
        return p / p.sum(axis=1, keepdims=True)

    expected = -(heated(start) * np.log(heated(logits))).sum() / 4
    found = knowledge_distillation(torch.from_numpy(logits), torch.from_numpy(start), temperature)
    assert float(found) == pytest.approx(expected, rel=1e-10)


def test_co_tuning_with_the_direct_relationship() -> None:
    p, source, y = softmax(normal(9, 4), axis=1), normal(3, 4), np.array([0, 1, 2, 0, 1, 2, 0, 0, 1])
    relationship = np.array([np.mean(p[y == k], axis=0) for k in range(3)])
    found = direct_relationship(torch.from_numpy(p), torch.from_numpy(y), 3)
    np.testing.assert_allclose(found.numpy(), relationship, rtol=1e-12)
    labels = [2, 0, 1]
    expected = np.mean([-relationship[k] @ np.log(softmax(row)) for k, row in zip(labels, source, strict=True)])
    for y_given in (torch.tensor(labels), torch.eye(3, dtype=torch.float64)[labels]):
        assert float(co_tuning(torch.from_numpy(source), y_given, found)) == pytest.approx(expected, rel=1e-10)


def calibrated(logits: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The scale of logits with the least cross-entropy, and that cross-entropy."""

    def loss(log_scale: float) -> float:
        return float(-log_softmax(np.exp(log_scale) * logits, axis=1)[np.arange(len(y)), y].mean())

    found = minimize_scalar(loss, bounds=(np.log(0.01), np.log(100)), method="bounded", options={"xatol": 1e-10})
    return float(np.exp(found.x)), float(found.fun)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_calibration(sharpness: float) -> None:
    logits = normal(200, 4)
    y = np.array([RNG.choice(4, p=softmax(sharpness * row)) for row in logits])
    found = float(calibrating_scale(torch.from_numpy(logits), torch.from_numpy(y)))
    assert found == pytest.approx(calibrated(logits, y)[0], rel=1e-6)


def test_the_reverse_relationship_is_bayes_rule_on_a_calibrated_logistic_regression() -> None:
    y = np.arange(60) % 3
    p = softmax(normal(60, 4) + 2 * np.eye(3, 4)[y], axis=1)
    folds = folds_of(torch.from_numpy(y), 5).numpy()

    def logits_of(model: LogisticRegression, p: np.ndarray) -> np.ndarray:
        return p @ model.coef_.T + model.intercept_

    tried = {}
    for strength in STRENGTHS:
        held_out = np.empty((60, 3))
        for fold in range(5):
            rest = folds != fold
            settings = {"C": 1 / (rest.sum() * strength), "tol": 1e-10, "max_iter": 100_000}
            held_out[~rest] = logits_of(LogisticRegression(**settings).fit(p[rest], y[rest]), p[~rest])
        scale, loss = calibrated(held_out, y)
        tried[loss] = strength, scale
    strength, scale = tried[min(tried)]
    model = LogisticRegression(C=1 / (60 * strength), tol=1e-10, max_iter=100_000).fit(p, y)
    of_target_given_source = softmax(scale * logits_of(model, np.eye(4)), axis=1)  # [k_source, k]
    of_source = p.mean(axis=0)
    of_target = of_source @ of_target_given_source
    expected = [[of_target_given_source[s, t] * of_source[s] / of_target[t] for s in range(4)] for t in range(3)]
    found = reverse_relationship(torch.from_numpy(p), torch.from_numpy(y), 3)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


class Flat(SequentialBackbone):
    """Features W x + b of flattened images."""

    def __init__(self) -> None:
        layers = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 3, 5))
        super().__init__({"only": layers}, 5, Preprocessing(size=3, mean=(0.5,), std=(0.5,)), Overrides())


def test_bi_tuning_step_by_step() -> None:
    """Two contrasts written as loops over samples and keys, with queues that overflow and averages that follow."""
    torch.manual_seed(0)
    network = Network(Flat(), IdentityMapping(5), LinearHead(5, 3)).double()
    settings = BiTuning(weight=0.7, temperature=0.2, keys_per_class=2, momentum=0.6, num_outputs=4)
    beginning = Beginning(network, None, None, Inference(torch.device("cpu")), seed=0)  # type: ignore[arg-type]
    term = settings.begin(beginning).double()
    average = [parameter.detach().numpy().copy() for parameter in network.backbone.parameters()]
    query_projection = [parameter.detach().numpy().copy() for parameter in term.projector.parameters()]
    key_projection = [values.copy() for values in query_projection]
    queues: list[list[tuple[np.ndarray, np.ndarray]]] = [[], [], []]

    def unit(v: np.ndarray) -> np.ndarray:
        return v / np.linalg.norm(v)

    def contrasted(own: float, others: list[tuple[float, bool]]) -> float:
        total = np.exp(own / 0.2) + sum(np.exp(s / 0.2) for s, _ in others)
        positives = [own, *(s for s, same in others if same)]
        return -float(np.mean([np.log(np.exp(s / 0.2) / total) for s in positives]))

    for labels in ([0, 1, 1, 1], [2, 0, 0, 1], [1, 2, 2, 0]):
        x, second = normal(4, 2, 3, 3), normal(4, 2, 3, 3)
        with torch.no_grad():  # a step of training
            for parameter in [*network.parameters(), *term.projector.parameters()]:
                parameter += torch.from_numpy(0.3 * normal(*parameter.shape))
        current = [parameter.detach().numpy().copy() for parameter in network.backbone.parameters()]
        query_projection = [parameter.detach().numpy().copy() for parameter in term.projector.parameters()]
        average = [0.6 * a + 0.4 * c for a, c in zip(average, current, strict=True)]
        key_projection = [0.6 * a + 0.4 * c for a, c in zip(key_projection, query_projection, strict=True)]
        head = network.head.linear
        rows = np.column_stack([head.weight.detach().numpy(), head.bias.detach().numpy()])
        losses, new = [], []
        for image, view, label in zip(x, second, labels, strict=True):
            f, f_key = current[0] @ image.ravel() + current[1], average[0] @ view.ravel() + average[1]
            z, z_key = (unit(p[0] @ v + p[1]) for p, v in ((query_projection, f), (key_projection, f_key)))
            w, h, h_key = unit(rows[label]), unit(np.append(f, 1)), unit(np.append(f_key, 1))
            keys = [(kh, kz, k == label) for k, queue in enumerate(queues) for kh, kz in queue]
            losses.append(
                contrasted(w @ h, [(w @ kh, same) for kh, _, same in keys])
                + contrasted(z @ z_key, [(z @ kz, same) for _, kz, same in keys])
            )
            new.append((label, h_key, z_key))
        for label, h_key, z_key in new:
            queues[label] = [*queues[label], (h_key, z_key)][-2:]
        features = network.backbone(torch.from_numpy(x))
        outputs = Outputs(network.head(features), features)
        trace = Trace(features, features, {})
        step = Step(network, torch.tensor(labels), outputs, trace, None, torch.from_numpy(second))
        term.after_step(network, 1, 1)
        assert term(step).item() == pytest.approx(0.7 * np.mean(losses), rel=1e-10)


def test_ewc_penalty() -> None:
    w, w0, fisher = normal(3, 4), normal(3, 4), normal(3, 4) ** 2
    expected = (w - w0).ravel() @ np.diag(fisher.ravel()) @ (w - w0).ravel() / 2
    assert float(elastic_penalty([tuple(map(torch.from_numpy, (w, w0, fisher)))])) == pytest.approx(expected, rel=1e-12)


def test_fisher_of_a_linear_backbone_in_closed_form() -> None:
    """Of features W x + b under logits V f + c: F_W[i, j] is the mean of x_j^2 (V' (diag p - p p') V)_ii."""
    torch.manual_seed(0)
    backbone, head = Flat().double(), LinearHead(5, 4).double()
    images = normal(6, 2, 3, 3)
    w, b, v, c = (t.detach().numpy() for t in (*backbone.parameters(), *head.parameters()))
    of_weight, of_bias = np.zeros_like(w), np.zeros_like(b)
    for x in images.reshape(6, -1):
        p = softmax(v @ (w @ x + b) + c)
        curvature = np.diag(v.T @ (np.diag(p) - np.outer(p, p)) @ v)
        of_weight += np.outer(curvature, x**2) / 6
        of_bias += curvature / 6
    found = fisher_diagonal(backbone, head, torch.from_numpy(images).split(1))
    np.testing.assert_allclose(found["only.1.weight"].numpy(), of_weight, rtol=1e-10)
    np.testing.assert_allclose(found["only.1.bias"].numpy(), of_bias, rtol=1e-10)


def test_fisher_is_the_curvature_of_the_loss_along_the_jacobian_of_the_logits() -> None:
    """F is the mean diagonal of J' (diag p - p p') J (Martens, "New insights on the natural gradient method", 2020)."""
    torch.manual_seed(0)
    backbone, head = Cnn().double(), LinearHead(84, 3).double()
    images = torch.randn(3, 1, 3, 32, 32, dtype=torch.float64)
    parameters = {name: parameter.detach() for name, parameter in backbone.named_parameters()}
    expected = {name: np.zeros(parameter.shape) for name, parameter in parameters.items()}
    for image in images:

        def logits(some: dict[str, torch.Tensor], image: torch.Tensor = image) -> torch.Tensor:
            return head(torch.func.functional_call(backbone, some, (image,)))[0]

        p = softmax(logits(parameters).detach().numpy())
        curvature = np.diag(p) - np.outer(p, p)
        for name, jacobian in torch.func.jacrev(logits)(parameters).items():
            j = jacobian.detach().numpy()  # [k, ...]
            expected[name] += np.einsum("k...,kl,l...->...", j, curvature, j) / 3
    found = fisher_diagonal(backbone, head, images)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].numpy(), values, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_stochastic_normalisation_is_one_of_two_by_channel(p: float) -> None:
    by_batch, by_moving = torch.from_numpy(normal(4, 200, 2, 2)), torch.from_numpy(normal(4, 200, 2, 2))
    torch.manual_seed(0)
    mixed = stochastic_normalisation(by_batch, by_moving, p)
    moving = [bool((mixed[:, c] == by_moving[:, c]).all()) for c in range(200)]
    assert all(moving[c] or bool((mixed[:, c] == by_batch[:, c]).all()) for c in range(200))
    assert np.mean(moving) == pytest.approx(p, abs=0.1)


def test_stoch_norm_with_moving_statistics_alone_is_evaluation_and_still_updates_them() -> None:
    norm = torch.nn.BatchNorm2d(3).double()
    x = torch.from_numpy(normal(5, 3, 4, 4)) * 2 + 1
    expected, plain = norm.eval()(x), torch.nn.BatchNorm2d(3).double()
    plain(x)
    handles = StochNorm(p=1.0).attach(norm.train())
    torch.testing.assert_close(norm(x), expected)
    assert torch.equal(norm.running_mean, plain.running_mean)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(norm(x), plain.train()(x))
