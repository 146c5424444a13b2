"""What rules choose among the scores of epochs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.adaptation.selection import LABEL_FREE, OF_TARGET, PREFIX, Best, Evidence, best_epochs, label_free_scores

SCORES = st.lists(st.one_of(st.just(-math.inf), st.floats(-10, 10)), min_size=1, max_size=8)


def history(*scores: float | None) -> list[dict[str, float]]:
    scored = [{} if score is None else {PREFIX + "entropy": score} for score in scores]
    return [{"epoch": epoch} | score for epoch, score in enumerate(scored, 1)]


@given(SCORES)
def test_the_first_of_the_best_and_never_a_collapsed_one(scores: list[float]) -> None:
    best = best_epochs(history(*scores))["entropy"]
    if max(scores) == -math.inf:
        assert best == (None, -math.inf)
    else:
        assert best == (scores.index(max(scores)) + 1, max(scores))


def test_epochs_and_rules_without_scores_are_left_out() -> None:
    assert best_epochs(history(None, 0.1, None, 0.3, None)) == {"entropy": Best(4, 0.3)}
    assert best_epochs(history(None, None)) == best_epochs([]) == {}


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("place", range(4))
def test_a_predictor_that_gives_no_numbers_never_wins(broken: float, place: int) -> None:
    tensors = list(torch.randn(4, 30, 3, generator=torch.Generator().manual_seed(0)))
    y = torch.arange(30) % 3
    sound = label_free_scores(Evidence(*tensors, y))
    assert set(sound) == set(LABEL_FREE)
    assert all(map(math.isfinite, sound.values()))
    tensors[place][3, 1] = broken
    assert label_free_scores(Evidence(*tensors, y)) == dict.fromkeys(LABEL_FREE, -math.inf)


def test_one_image_of_the_source_is_too_few() -> None:
    logits = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    evidence = Evidence(logits, logits, logits[:1], logits[:1], torch.zeros(1, dtype=torch.int64))
    assert set(label_free_scores(evidence)) == set(OF_TARGET)


def test_features_that_do_not_vary_give_scores() -> None:
    logits = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    features, y = torch.zeros(30, 100), torch.arange(30) % 3
    scores = label_free_scores(Evidence(logits, features, logits, features, y))
    assert all(map(math.isfinite, scores.values()))
