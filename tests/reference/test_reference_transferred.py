"""CKA, distances and calibration by other derivations from the papers' equations, in float64."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from graft.evaluation import brier_score, expected_calibration_error, reliability, scores
from graft.reports.labels import labels_needed
from graft.transferred import centred_gram, distance, linear_cka


def pair(n: int, d: int, e: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two representations [n, d] and [n, e] that have some directions in common; neither is centred."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 5))
    x = common @ rng.normal(size=(5, d)) + rng.normal(size=(n, d)) + 3
    y = common @ rng.normal(size=(5, e)) + rng.normal(size=(n, e)) - 1
    return x, y


def cka(*batches: tuple[np.ndarray, np.ndarray]) -> float | None:
    grams = [[centred_gram(torch.from_numpy(side)) for side in batch] for batch in batches]
    return linear_cka([first for first, _ in grams], [second for _, second in grams])


def unbiased_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """Song et al. 2012: tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2/(n-2) 1'KL1, over n(n-3), with empty diagonals."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    total = np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l).sum()
    return float(total / (n * (n - 3)))


def hsic_of_quadruples(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """The mean over all four different samples i, j, q, r of k_ij (l_ij + l_qr - 2 l_iq): HSIC's definition."""
    values = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in permutations(range(len(k)), 4)]
    return float(np.mean(values))


@pytest.mark.parametrize(("n", "d", "e"), [(4, 3, 2), (7, 20, 5), (9, 2, 2)])
def test_hsic_is_the_mean_over_quadruples(n: int, d: int, e: int) -> None:
    x, y = pair(n, d, e)
    grams = [centred_gram(torch.from_numpy(side)) for side in (x, y)]
    found = float((grams[0] * grams[1]).sum()) / (n * (n - 3))
    assert found == pytest.approx(hsic_of_quadruples(x @ x.T, y @ y.T), rel=1e-10)
    assert found == pytest.approx(unbiased_hsic(x @ x.T, y @ y.T), rel=1e-10)


@pytest.mark.parametrize(("n", "d", "e"), [(12, 40, 30), (64, 8, 16), (200, 10, 400)])
def test_cka_of_one_batch_and_of_several(n: int, d: int, e: int) -> None:
    batches = [pair(n, d, e, seed) for seed in range(3)]
    for chosen in (batches[:1], batches):
        sums = np.zeros(3)
        for x, y in chosen:
            k, l = x @ x.T, y @ y.T  # noqa: E741
            sums += [unbiased_hsic(*both) for both in ((k, l), (k, k), (l, l))]
        assert cka(*chosen) == pytest.approx(sums[0] / math.sqrt(sums[1] * sums[2]), rel=1e-8)


def test_cka_of_many_samples_is_that_of_kornblith() -> None:
    """||Y'X||^2 / (||X'X|| ||Y'Y||) of centred features, their equation 5, which the unbiased estimate tends to."""
    x, y = (side - side.mean(0) for side in pair(4000, 6, 9))
    expected = np.linalg.norm(y.T @ x) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert cka((x, y)) == pytest.approx(expected, abs=2e-3)
    assert expected > 0.1


def test_cka_of_unrelated_features_is_small_where_samples_are_few() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 64, 2000))
    plain = np.linalg.norm(y.T @ x) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert plain > 0.9
    value = cka((x, y))
    assert value is not None
    assert value < 0.1


def test_distance_is_that_of_all_values_as_one_vector() -> None:
    rng = np.random.default_rng(0)
    before, after = ([rng.normal(size=shape) for shape in ((3, 4), (5,), ())] for _ in range(2))
    vectors = [np.concatenate([tensor.ravel() for tensor in side]) for side in (before, after)]
    moved, relative = distance(*([torch.from_numpy(np.asarray(tensor)) for tensor in side] for side in (before, after)))
    expected = np.sqrt(((vectors[1] - vectors[0]) ** 2).sum())
    assert moved == pytest.approx(expected, rel=1e-12)
    assert relative == pytest.approx(expected / np.sqrt((vectors[0] ** 2).sum()), rel=1e-12)


def logits(seed: int, n: int = 300, k: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    return torch.from_numpy(2 * rng.normal(size=(n, k)) + np.eye(k)[labels]), torch.from_numpy(labels)


@pytest.mark.parametrize("seed", range(3))
def test_brier_score_and_likelihood_sample_by_sample(seed: int) -> None:
    values, labels = logits(seed)
    total, surprise = 0.0, 0.0
    for row, label in zip(values.tolist(), labels.tolist(), strict=True):
        weights = [math.exp(value) for value in row]
        for klass, weight in enumerate(weights):
            total += (weight / sum(weights) - (klass == label)) ** 2
        surprise -= math.log(weights[label] / sum(weights))
    assert brier_score(values, labels) == pytest.approx(total / len(labels), rel=1e-10)
    result = scores(values, labels)
    assert result["brier_score"] == brier_score(values, labels)
    assert result["loss"] == pytest.approx(surprise / len(labels), rel=1e-10)
    assert result["loss"] == pytest.approx(log_loss(labels, torch.softmax(values, 1)), rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_bins", [1, 4, 15])
def test_reliability_and_calibration_error_bin_by_bin(seed: int, num_bins: int) -> None:
    values, labels = logits(seed)
    probabilities = torch.softmax(values, 1).numpy()
    confidence, hits = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
    bins, error = reliability(values, labels, num_bins), 0.0
    for number in range(num_bins):
        inside = (confidence > number / num_bins) & (confidence <= (number + 1) / num_bins)
        assert bins["samples"][number] == inside.sum()
        if not inside.any():
            assert bins["confidence"][number] is bins["accuracy"][number] is None
            continue
        assert bins["confidence"][number] == pytest.approx(confidence[inside].mean(), rel=1e-12)
        assert bins["accuracy"][number] == hits[inside].mean()
        error += inside.mean() * abs(hits[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(bins) == pytest.approx(error, rel=1e-10)


def test_labels_needed_on_a_curve_that_is_a_straight_line_over_the_logarithm() -> None:
    curve = {num: [0.1 + 0.1 * math.log2(num) + shift for shift in (-0.02, 0.02)] for num in (4, 8, 32, 64)}
    for num in (4.5, 8.0, 20.0, 60.0):
        found = labels_needed(0.1 + 0.1 * math.log2(num), curve)
        assert found.least == found.most == pytest.approx(num, rel=1e-9)


def test_labels_needed_where_more_labels_once_did_worse() -> None:
    """0.6 (two runs) before 0.3 (one run) are pooled to 0.5; half-way from there to 0.7 is 0.6."""
    curve = {10: [0.4], 20: [0.5, 0.7], 40: [0.3], 160: [0.7]}
    found = labels_needed(0.6, curve)
    assert found.least == pytest.approx(math.sqrt(40 * 160))
