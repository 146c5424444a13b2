"""What is said of two domains' features, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from graft.adaptation.distance import NUM_FOLDS, STRENGTH, a_distance
from graft.callbacks.scatter import principal_coordinates
from graft.probes import folds_of


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("num_source", "num_target"), [(80, 80), (60, 100)])
def test_a_distance(num_source: int, num_target: int) -> None:
    source, target = normal(num_source, 6, seed=0), normal(num_target, 6, seed=1) * 1.5 + 0.4
    features = StandardScaler().fit_transform(np.concatenate([source, target]))
    domains = np.repeat([0, 1], [num_source, num_target])
    folds = folds_of(torch.from_numpy(domains), NUM_FOLDS).numpy()
    # the penalty s/2 ||W||^2 of a softmax over two classes is s/4 ||w||^2 of a logistic weight w
    num_seen = len(domains) / NUM_FOLDS
    model = make_pipeline(LogisticRegression(C=2 / (num_seen * STRENGTH), tol=1e-12, max_iter=100_000))
    wrong = cross_val_predict(model, features, domains, cv=PredefinedSplit(folds)) != domains
    error = (wrong[domains == 0].mean() + wrong[domains == 1].mean()) / 2
    assert 0.05 < error < 0.45
    found = a_distance(torch.from_numpy(source), torch.from_numpy(target))
    assert found == pytest.approx(2 * (1 - 2 * error), abs=1e-9)


@pytest.mark.parametrize("shape", [(30, 5), (5, 30), (4, 1)])
def test_principal_coordinates(shape: tuple[int, int]) -> None:
    features = normal(*shape, seed=2) * np.linspace(1, 3, shape[1])
    num = min(2, shape[1])
    model = PCA(num).fit(features)
    found, shares = principal_coordinates(torch.from_numpy(features), 2)
    assert found.shape == (shape[0], 2)
    np.testing.assert_allclose(np.abs(found[:, :num].numpy()), np.abs(model.transform(features)), atol=1e-9)
    np.testing.assert_allclose(shares[:num].numpy(), model.explained_variance_ratio_, atol=1e-9)
