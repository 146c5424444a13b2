"""Gain over the baseline, from histories written by hand."""

import pytest

from graft.summary import flat_scores, transfer_gain


def history(*accuracies: float) -> list[dict[str, float]]:
    return [
        {"epoch": i, "step": 10 * i, "seconds": 2.0 * i, "val/accuracy": value} for i, value in enumerate(accuracies, 1)
    ]


def test_gain_and_the_moment_of_passing() -> None:
    result = transfer_gain(0.9, history(0.5, 0.8, 0.9), 0.7, history(0.2, 0.75, 0.7))
    assert result["gain"] == pytest.approx(0.2)
    assert not result["negative"]
    assert (result["epochs_to_pass_baseline"], result["steps_to_pass_baseline"]) == (2, 20)
    assert result["seconds_to_pass_baseline"] == 4.0
    assert (result["baseline_steps"], result["baseline_seconds"]) == (30, 6.0)


def test_negative_transfer_never_passes() -> None:
    result = transfer_gain(0.4, history(0.3, 0.4), 0.7, history(0.2, 0.7))
    assert result["negative"]
    assert result["gain"] == pytest.approx(-0.3)
    assert result["steps_to_pass_baseline"] is None


def test_without_validation_nothing_is_said_about_passing() -> None:
    rows = [{"epoch": 1, "step": 10, "seconds": 2.0}]
    assert transfer_gain(0.9, rows, 0.7, rows)["steps_to_pass_baseline"] is None


def test_a_closed_form_run_has_no_epochs() -> None:
    assert transfer_gain(0.9, [], 0.7, [])["baseline_steps"] == 0


def test_flat_scores_keep_the_scalars() -> None:
    scores = {"test": {"accuracy": 0.5, "loss": 1.0, "calibration_error": 0.1, "confusion": [[1]]}}
    assert flat_scores(scores, "target") == {
        "target/test/accuracy": 0.5,
        "target/test/loss": 1.0,
        "target/test/calibration_error": 0.1,
    }
