"""Open-set scores by hand, and what every predictor has in common."""

import math

import pytest
import torch
from torch import Tensor

from graft.adaptation.open_set import confidence, open_set_scores


def logits(*probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_by_hand() -> None:
    known = logits([0.9, 0.1], [0.6, 0.4], [0.1, 0.9], [0.8, 0.2]), torch.tensor([0, 0, 1, 1])
    unknown = logits([0.5, 0.5], [0.69, 0.31], [0.7, 0.3])
    scores = open_set_scores(known, unknown, "max_probability", 0.7)
    assert scores["known_accuracy"] == pytest.approx((1 / 2 + 1 / 2) / 2)  # the second is not sure, the fourth wrong
    assert scores["unknown_accuracy"] == pytest.approx(2 / 3)
    assert scores["h_score"] == pytest.approx(2 / (2 + 3 / 2))


def test_known_accuracy_is_a_mean_over_the_classes_that_are_there() -> None:
    known = (
        logits([0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.9, 0.05, 0.05]),
        torch.tensor([0, 0, 0, 2]),
    )
    assert open_set_scores(known, known[0], "max_probability", 0.5)["known_accuracy"] == pytest.approx(0.5)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_calling_all_or_nothing_unknown_scores_nothing(threshold: float) -> None:
    known = logits([0.9, 0.1], [0.1, 0.9]), torch.tensor([0, 1])
    assert open_set_scores(known, known[0], "max_probability", threshold)["h_score"] == 0.0


def test_confidence_is_between_0_and_1() -> None:
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert confidence(x, "entropy").tolist() == pytest.approx([0.0, 1.0], abs=1e-12)
    assert confidence(x, "max_probability").tolist() == pytest.approx([0.25, 1.0])
    p = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    entropy = -sum(q * math.log(q) for q in (0.7, 0.2, 0.1))
    assert confidence(p.log(), "entropy").item() == pytest.approx(1 - entropy / math.log(3))
