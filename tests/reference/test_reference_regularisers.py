"""Regularisers against NumPy in float64, each computed from its paper's equation in another way."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from graft.models.backbones.cnn import Cnn
from graft.models.heads.linear import LinearHead
from graft.regularisers.bss import batch_spectral_shrinkage
from graft.regularisers.co_tuning import class_relationship, co_tuning
from graft.regularisers.delta import behaviour_distance
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


def test_delta() -> None:
    maps, start = {"a": normal(3, 4, 5, 6), "b": normal(3, 7)}, {"a": normal(3, 4, 5, 6), "b": normal(3, 7)}
    expected = 0.0
    for name in maps:
        for i in range(3):
            for channel in range(maps[name].shape[1]):  # each weighs 1 / c
                difference = np.ravel(maps[name][i, channel] - start[name][i, channel])
                expected += difference @ difference / difference.size / maps[name].shape[1] / 3
    tensors = [{name: torch.from_numpy(value) for name, value in some.items()} for some in (maps, start)]
    assert float(behaviour_distance(*tensors)) == pytest.approx(expected, rel=1e-12)


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


def test_co_tuning() -> None:
    target, source, y = normal(9, 4), normal(3, 4), np.array([0, 1, 2, 0, 1, 2, 0, 0, 1])
    relationship = np.array([np.mean([softmax(row) for row in target[y == k]], axis=0) for k in range(3)])
    found = class_relationship(torch.from_numpy(target), torch.from_numpy(y), 3)
    np.testing.assert_allclose(found.numpy(), relationship, rtol=1e-12)
    labels = [2, 0, 1]
    expected = np.mean([-relationship[k] @ np.log(softmax(row)) for k, row in zip(labels, source, strict=True)])
    for y_given in (torch.tensor(labels), torch.eye(3, dtype=torch.float64)[labels]):
        assert float(co_tuning(torch.from_numpy(source), y_given, found)) == pytest.approx(expected, rel=1e-10)


def test_ewc_penalty() -> None:
    w, w0, fisher = normal(3, 4), normal(3, 4), normal(3, 4) ** 2
    expected = (w - w0).ravel() @ np.diag(fisher.ravel()) @ (w - w0).ravel() / 2
    assert float(elastic_penalty([tuple(map(torch.from_numpy, (w, w0, fisher)))])) == pytest.approx(expected, rel=1e-12)


def test_fisher_is_the_curvature_of_the_divergence_from_the_networks_own_probabilities() -> None:
    """For one image, F is the second derivative of KL(p(w) || p(w + e)) at e = 0."""
    torch.manual_seed(0)
    backbone, head = Cnn().double(), LinearHead(84, 3).double()
    images = torch.randn(3, 1, 3, 32, 32, dtype=torch.float64)
    fisher = fisher_diagonal(backbone, head, images)
    step, parameters = 1e-4, dict(backbone.named_parameters())
    for name, index in (("stage3.fc2.bias", (7,)), ("stage3.fc2.weight", (7, 11)), ("stem.conv1.bias", (2,))):
        curvatures = []
        for image in images:
            with torch.no_grad():
                before = head(backbone(image)).log_softmax(1)
                divergences = []
                for sign in (1, -1):
                    parameters[name][index] += sign * step
                    divergences.append((before.exp() * (before - head(backbone(image)).log_softmax(1))).sum())
                    parameters[name][index] -= sign * step
            curvatures.append(float(sum(divergences)) / step**2)
        assert float(fisher[name][index]) == pytest.approx(np.mean(curvatures), rel=1e-3, abs=1e-9)


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
