"""Transferability scores against other derivations from the papers' equations, and the traps of their usual codes."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from graft.probes import folds_of
from graft.scores.h_score import h_score
from graft.scores.knn import knn
from graft.scores.leep import leep
from graft.scores.linear_probe import linear_probe
from graft.scores.logme import logme
from graft.scores.nce import nce
from graft.scores.transrate import transrate

SHAPES = [(12, 40), (30, 30), (31, 30), (120, 15)]  # n < d, = d, and > d


def samples(n: int, d: int, k: int = 3, shift: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, d] of unlike scales, not centred, and labels [n], of which class 0 has the most."""
    rng = np.random.default_rng(n * d)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k) * rng.integers(0, 2, n - k)])
    features = (rng.normal(size=(n, d)) + shift * np.eye(k, d)[labels]) * np.geomspace(0.3, 3, d) + 0.5
    return features, labels


def answers(n: int, s: int, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Source probabilities [n, s] that depend on the labels [n]."""
    rng = np.random.default_rng(n * s)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    logits = rng.normal(size=(n, s)) * 2 + 2 * np.eye(k, s)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


# LogME: log N(y; 0, F F' / alpha + I / beta), maximised over alpha and beta without any algebra.


def brute_force_evidence(features: np.ndarray, y: np.ndarray) -> float:
    """The highest log density of y under the whole Gaussian of all samples, searched from many starts."""
    n = len(y)

    def loss(logarithms: np.ndarray) -> float:
        prior, noise = np.exp(logarithms)
        covariance = prior * features @ features.T + noise * np.eye(n)
        return 0.5 * float(
            n * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1] + y @ np.linalg.solve(covariance, y)
        )

    starts = product((-8.0, -4.0, -1.0), (-8.0, -4.0, -1.0))
    bounds = [(-20.0, 5.0), (-16.0, 5.0)]
    fits = (minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts)
    best = min(fits, key=lambda fit: fit.fun)
    return -float(minimize(loss, best.x, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-11}).fun)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_logme_is_the_maximum_of_the_log_evidence(n: int, d: int) -> None:
    features, labels = samples(n, d)
    expected = np.mean([brute_force_evidence(features, (labels == c).astype(float)) for c in range(3)]) / n
    assert logme(torch.from_numpy(features), torch.from_numpy(labels)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("n", "d"), [(40, 60), (60, 20)])
def test_logme_is_where_the_fixed_point_iteration_of_the_paper_ends(n: int, d: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 5
    features = (rng.normal(size=(n, d)) + np.eye(5, d)[labels]) * np.geomspace(1, 0.05, d)
    values = []
    for c in range(5):
        y = (labels == c).astype(float)
        gram, eigenvalues = features.T @ features, np.linalg.eigvalsh(features.T @ features).clip(0)
        alpha = beta = 1.0
        for _ in range(3000):
            precision = alpha * np.eye(d) + beta * gram
            mean = beta * np.linalg.solve(precision, features.T @ y)
            gamma = (beta * eigenvalues / (alpha + beta * eigenvalues)).sum()
            residual = ((features @ mean - y) ** 2).sum()
            before, (alpha, beta) = (alpha, beta), (gamma / (mean @ mean), (n - gamma) / residual)
            if np.allclose(before, (alpha, beta), rtol=1e-10):
                break
        precision = alpha * np.eye(d) + beta * gram
        mean = beta * np.linalg.solve(precision, features.T @ y)
        fit = beta * ((features @ mean - y) ** 2).sum() + alpha * mean @ mean
        determinant = np.linalg.slogdet(precision)[1]
        values.append(0.5 * (n * math.log(beta / 2 / math.pi) + d * math.log(alpha) - fit - determinant) / n)
    assert logme(torch.from_numpy(features), torch.from_numpy(labels)) == pytest.approx(np.mean(values), abs=1e-6)


def test_logme_of_noise_does_not_grow_with_the_number_of_features() -> None:
    rng = np.random.default_rng(0)
    labels = torch.arange(50) % 2
    few, many = (logme(torch.from_numpy(rng.normal(size=(50, d))), labels) for d in (10, 512))
    assert many == pytest.approx(few, abs=0.1)
    assert many < 0


def test_logme_of_labels_that_are_a_linear_function_of_the_features_is_finite_and_high() -> None:
    labels = torch.arange(40) % 4
    features = torch.eye(4, dtype=torch.float64)[labels]
    exact = logme(features, labels)
    assert math.isfinite(exact)
    noisy = features + 0.1 * torch.from_numpy(np.random.default_rng(0).normal(size=(40, 4)))
    assert exact > logme(noisy, labels) > logme(noisy, labels.flip(0).roll(1) * 0 + torch.arange(40) // 10)


# H-score


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_h_score_with_scikit_learns_shrinkage(n: int, d: int) -> None:
    features, labels = samples(n, d)
    centred = features - features.mean(0)
    covariance, shrinkage = ledoit_wolf(centred)
    means = np.stack([centred[labels == label].mean(0) for label in labels])
    between = np.cov(means, rowvar=False, bias=True)
    expected = np.trace(np.linalg.inv(covariance) @ ((1 - shrinkage) * between))
    assert h_score(torch.from_numpy(features), torch.from_numpy(labels)) == pytest.approx(expected, rel=1e-8)


def test_h_score_of_noise_is_small_where_samples_are_few() -> None:
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 512)))
    assert h_score(features, torch.arange(50) % 5) < 1.5  # unshrunk: 4


# TransRate


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("eps", [1e-4, 0.1])
def test_transrate_by_determinants_of_either_gram_matrix(n: int, d: int, eps: float) -> None:
    features, labels = samples(n, d)
    z = features - features.mean(0)
    z = z / np.sqrt(np.trace(z.T @ z) / n)

    def rates(part: np.ndarray) -> tuple[float, float]:
        m = len(part)
        inner, outer = part.T @ part / (m * eps), part @ part.T / (m * eps)
        return tuple(0.5 * float(np.linalg.slogdet(np.eye(len(gram)) + gram)[1]) for gram in (inner, outer))

    whole, parts = rates(z), [(labels == c).mean() * np.array(rates(z[labels == c])) for c in range(3)]
    expected = np.array(whole) - np.sum(parts, axis=0)
    value = transrate(torch.from_numpy(features), torch.from_numpy(labels), eps)
    np.testing.assert_allclose(value, expected, rtol=1e-8)


# LEEP and NCE


@pytest.mark.parametrize(("n", "s"), [(9, 20), (80, 4)])
def test_leep_by_counting(n: int, s: int) -> None:
    theta, labels = answers(n, s)
    total = 0.0
    for i in range(n):
        likelihood = 0.0
        for z in range(s):
            joint = sum(theta[j, z] for j in range(n) if labels[j] == labels[i]) / n
            marginal = sum(theta[j, z] for j in range(n)) / n
            likelihood += joint / marginal * theta[i, z]
        total += math.log(likelihood)
    assert leep(torch.from_numpy(theta), torch.from_numpy(labels)) == pytest.approx(total / n, rel=1e-10)


@pytest.mark.parametrize(("n", "s"), [(9, 20), (80, 4)])
def test_nce_by_counting(n: int, s: int) -> None:
    theta, labels = answers(n, s)
    hard = [max(range(s), key=lambda z, row=row: row[z]) for row in theta]
    total = 0.0
    for z, y in product(range(s), range(3)):
        joint = sum(hard[i] == z and labels[i] == y for i in range(n)) / n
        if joint:
            total += joint * math.log(joint / (hard.count(z) / n))
    assert nce(torch.from_numpy(theta), torch.from_numpy(labels)) == pytest.approx(total, rel=1e-10)


def test_a_source_class_that_is_never_used_changes_nothing() -> None:
    theta, labels = (torch.from_numpy(values) for values in answers(30, 4))
    wider = torch.cat([theta, torch.zeros(30, 3, dtype=theta.dtype)], dim=1)
    assert leep(wider, labels) == pytest.approx(leep(theta, labels))
    assert nce(wider, labels) == pytest.approx(nce(theta, labels))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(2, 5))
def test_leep_and_nce_are_bounded_as_proved(seed: int, s: int, k: int) -> None:
    """Both are at most 0, NCE at least -H(Y), LEEP at least NCE plus the mean log of the source's confidence."""
    rng = np.random.default_rng(seed)
    theta = rng.dirichlet(np.full(s, 0.5), 40)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, 40 - k)])
    soft, hard = (score(torch.from_numpy(theta), torch.from_numpy(labels)) for score in (leep, nce))
    shares = np.bincount(labels) / 40
    assert float(shares @ np.log(shares)) - 1e-12 <= hard <= 1e-12
    assert hard + np.log(theta.max(1)).mean() - 1e-12 <= soft <= 1e-12


def test_leep_and_nce_of_a_source_that_knows_the_answer_are_0() -> None:
    labels = torch.arange(12) % 3
    theta = torch.eye(5)[labels + 1]
    assert leep(theta, labels) == pytest.approx(0.0, abs=1e-12)
    assert nce(theta, labels) == pytest.approx(0.0, abs=1e-12)


# Accuracies


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("num_neighbours", [1, 5])
def test_knn_is_scikit_learns_left_out_one_by_one(n: int, d: int, num_neighbours: int) -> None:
    features, labels = samples(n, d)
    hits = 0
    for left_out in range(n):
        others = np.arange(n) != left_out
        model = KNeighborsClassifier(
            num_neighbours, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
        )
        prediction = model.fit(features[others], labels[others]).predict(features[[left_out]])
        hits += int(prediction[0] == labels[left_out])
    assert knn(torch.from_numpy(features), torch.from_numpy(labels), num_neighbours) == hits / n


@pytest.mark.parametrize(("n", "d"), [(45, 60), (120, 15)])
def test_linear_probe_is_scikit_learns_on_the_same_folds(n: int, d: int) -> None:
    features, labels = samples(n, d)
    folds = folds_of(torch.from_numpy(labels), 5).numpy()
    x = features - features.mean(0)
    x = x / np.sqrt(np.square(x).mean())
    accuracies = []
    for strength in (0.1, 0.01):
        hits = 0
        for fold in range(5):
            train, held_out = folds != fold, folds == fold
            model = LogisticRegression(C=1 / (strength * train.sum()), max_iter=5000, tol=1e-8)
            hits += (model.fit(x[train], labels[train]).predict(x[held_out]) == labels[held_out]).sum()
        accuracies.append(hits / n)
    value = linear_probe(torch.from_numpy(features), torch.from_numpy(labels), 5, (0.1, 0.01))
    assert value == pytest.approx(max(accuracies))
