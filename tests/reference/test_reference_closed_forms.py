"""Closed forms against independent computations: scikit-learn, and leaving samples out one by one."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import Ridge, RidgeCV

from graft.models.heads.ridge import STRENGTHS, RidgeHead, leave_one_out_error, principal_axes
from graft.models.mappings.alignment import shrunk_covariance

SHAPES = [(12, 40), (30, 30), (31, 30), (120, 15)]  # n < d, = d, and > d


def samples(n: int, d: int, k: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [n, d] of unlike scales, labels [n], one-hot targets [n, k]."""
    rng = np.random.default_rng(n * d)
    labels = np.arange(n) % k
    features = (rng.normal(size=(n, d)) + 1.5 * np.eye(k, d)[labels]) * np.geomspace(0.1, 10, d) + 3
    return features, labels, np.eye(k)[labels]


def brute_force_error(x: np.ndarray, y: np.ndarray, strength: float) -> float:
    residuals = []
    for left_out in range(len(x)):
        others = np.arange(len(x)) != left_out
        model = Ridge(alpha=strength, solver="svd").fit(x[others], y[others])
        residuals.append(model.predict(x[[left_out]])[0] - y[left_out])
    return float(np.square(residuals).mean())


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0, 1e4])
def test_leave_one_out_is_what_leaving_one_out_gives(n: int, d: int, strength: float) -> None:
    x, _, y = samples(n, d)
    axes = principal_axes(torch.from_numpy(x - x.mean(0)))
    error = leave_one_out_error(axes, torch.from_numpy(y - y.mean(0)), torch.tensor(strength, dtype=torch.float64))
    assert float(error) == pytest.approx(brute_force_error(x, y, strength), rel=1e-6)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_ridge_head_is_scikit_learns(n: int, d: int) -> None:
    x, labels, y = samples(n, d)
    head = RidgeHead(d, 3).double()
    head.solve(torch.from_numpy(x), torch.from_numpy(labels))
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)
    scale = np.square(singular[singular > 1e-9 * singular[0]]).mean()
    expected = RidgeCV(alphas=scale * np.array(STRENGTHS), gcv_mode="svd").fit(x, y)
    assert float(head.ridge_lambda) == pytest.approx(expected.alpha_)
    np.testing.assert_allclose(head.weight.numpy(), expected.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(head(torch.from_numpy(x)).numpy(), expected.predict(x), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_shrunk_covariance_is_scikit_learns(n: int, d: int) -> None:
    x, _, _ = samples(n, d)
    centred = x - x.mean(0)
    expected, expected_shrinkage = ledoit_wolf(centred, assume_centered=True)
    covariance, shrinkage = shrunk_covariance(torch.from_numpy(centred))
    np.testing.assert_allclose(covariance.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert float(shrinkage) == pytest.approx(expected_shrinkage, rel=1e-9)
