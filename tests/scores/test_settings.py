"""Settings and bounds of single scores."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import UserError
from graft.probes import folds_of
from graft.scores.base import Score, class_indices
from graft.scores.h_score import h_score
from graft.scores.knn import knn
from graft.scores.linear_probe import linear_probe
from graft.scores.transrate import transrate

FEATURES = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 40))
def test_bounds(seed: int, n: int, d: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features, labels = torch.randn(n, d, generator=generator), torch.arange(n) % 3
    num_classes = min(n, 3)
    assert -1e-9 <= h_score(features, labels) <= min(num_classes - 1, d) + 1e-9
    assert transrate(features, labels) >= -1e-9  # log det is concave
    assert 0 <= knn(features, labels) <= 1


def test_classes_are_numbered_in_the_order_of_their_appearance() -> None:
    indices, num_classes = class_indices(torch.tensor([7, 7, 2, 9, 2]))
    assert (indices.tolist(), num_classes) == ([0, 0, 1, 2, 1], 3)


def test_every_class_is_spread_over_all_folds() -> None:
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] * 7)
    folds = folds_of(labels, 5)
    for label, most, least in ((0, 2, 2), (1, 1, 1), (2, 2, 1)):
        counts = torch.bincount(folds[labels == label], minlength=5)
        assert (int(counts.max()), int(counts.min())) == (most, least)
    assert torch.equal(folds, folds_of(labels, 5))


def test_knn_never_asks_a_sample_about_itself() -> None:
    """Pairs of the same place and unlike labels: whoever asks itself is right, the nearest other one is wrong."""
    features = torch.eye(6).repeat_interleave(2, dim=0)
    assert knn(features, torch.arange(12) % 2, num_neighbours=1) == 0.0
    assert knn(features, torch.arange(12) // 2 % 2, num_neighbours=1) == 1.0


@pytest.mark.parametrize(
    ("score", "setting", "message"),
    [
        (knn, {"num_neighbours": 0}, "num_neighbours=0; expected 1 or more"),
        (knn, {"temperature": 0.0}, "temperature=0.0; expected a number above 0"),
        (transrate, {"eps": 0.0}, "eps=0.0; expected a number above 0"),
        (linear_probe, {"num_folds": 1}, "num_folds=1; expected 2 or more"),
        (linear_probe, {"strengths": [0.0]}, "expected numbers above 0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(score: Score, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(FEATURES, LABELS, **setting)
