"""Scores against independent computations."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from graft.evaluation import expected_calibration_error, scores


def example(seed: int, num_samples: int = 200, num_classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_samples, num_classes, generator=generator) * 2
    return logits, torch.randint(num_classes, (num_samples,), generator=generator)


@given(st.integers(0, 1000))
def test_scores_agree_with_scikit_learn(seed: int) -> None:
    logits, labels = example(seed)
    result = scores(logits, labels)
    predicted = logits.argmax(1).numpy()
    assert result["accuracy"] == accuracy_score(labels, predicted)
    assert result["confusion"] == confusion_matrix(labels, predicted, labels=range(5)).tolist()
    probabilities = torch.softmax(logits.double(), 1).numpy()
    assert result["loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(5)), abs=1e-5)


def calibration_error_by_loops(logits: torch.Tensor, labels: torch.Tensor, num_bins: int) -> float:
    confidence, predicted = logits.double().softmax(1).max(1)
    error = 0.0
    for low in np.arange(num_bins) / num_bins:
        inside = (confidence > low) & (confidence <= low + 1 / num_bins)
        if inside.any():
            accuracy = (predicted[inside] == labels[inside]).double().mean()
            error += float(inside.double().mean() * abs(accuracy - confidence[inside].mean()))
    return error


@pytest.mark.parametrize("seed", range(5))
def test_calibration_error_agrees_with_its_definition(seed: int) -> None:
    logits, labels = example(seed)
    assert expected_calibration_error(logits, labels) == pytest.approx(
        calibration_error_by_loops(logits, labels, 15), abs=1e-5
    )


def test_calibration_error_of_certain_predictions() -> None:
    logits = torch.tensor([[100.0, 0.0], [100.0, 0.0]])
    assert expected_calibration_error(logits, torch.tensor([0, 0])) == 0.0
    assert expected_calibration_error(logits, torch.tensor([1, 1])) == 1.0


def test_a_class_without_samples_has_no_accuracy() -> None:
    result = scores(torch.eye(3)[:2], torch.tensor([0, 1]))
    assert result["accuracy_by_class"] == [1.0, 1.0, None]
