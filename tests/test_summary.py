"""Gain over the baseline, from histories written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.summary import flat_scores, mean_lead, most_confused, transfer_gain


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
    scores = {"accuracy": 0.5, "loss": 1.0, "calibration_error": 0.1, "brier_score": 0.3, "confusion": [[1]]}
    expected = {f"target/test/{name}": value for name, value in scores.items() if name != "confusion"}
    assert flat_scores({"test": scores}, "target") == expected


def test_scores_that_the_store_kept_for_an_earlier_version_are_what_there_is() -> None:
    assert flat_scores({"test": {"accuracy": 0.5}}, "target") == {"target/test/accuracy": 0.5}


def test_learning_speed_against_the_baseline() -> None:
    result = transfer_gain(0.9, history(0.5, 0.8, 0.9), 0.7, history(0.2, 0.75, 0.7))
    assert (result["epochs_to_baseline_best"], result["steps_to_baseline_best"]) == (2, 20)
    assert result["seconds_to_baseline_best"] == 4.0
    assert result["speedup_in_steps"] == result["speedup_in_seconds"] == 1.0
    assert transfer_gain(0.9, history(0.8), 0.7, history(0.2, 0.3, 0.75))["speedup_in_steps"] == 3.0
    slow = transfer_gain(0.4, history(0.3, 0.4), 0.7, history(0.2, 0.7))
    assert (slow["steps_to_baseline_best"], slow["speedup_in_steps"]) == (20, None)


def test_the_mean_lead_is_the_area_between_the_curves() -> None:
    # Leads of .3, .1, .2 at steps 10, 20, 30: trapezia of 2 and 1.5 over 20 steps.
    assert mean_lead(history(0.5, 0.8, 0.9), history(0.2, 0.7, 0.7)) == pytest.approx(3.5 / 20)
    assert mean_lead(history(0.5, 0.6), history(0.5, 0.6)) == 0.0
    assert mean_lead(history(0.5), history(0.2)) == pytest.approx(0.3)
    assert mean_lead([], history(0.2)) is None
    assert mean_lead(history(0.5), [row | {"step": 99} for row in history(0.2)]) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_a_lead_is_the_others_lag_and_no_larger_than_the_curves_allow(first: list[float], second: list[float]) -> None:
    lead = mean_lead(history(*first), history(*second))
    lag = mean_lead(history(*second), history(*first))
    assert lead is not None
    assert lag is not None
    assert lead == pytest.approx(-lag, abs=1e-12)
    assert min(first) - max(second) - 1e-12 <= lead <= max(first) - min(second) + 1e-12


def test_curves_of_unlike_steps_are_compared_at_the_same_step() -> None:
    fine = [{"step": step, "val/accuracy": 0.01 * step} for step in (5, 10, 15, 20, 25)]
    coarse = [{"step": step, "val/accuracy": 0.005 * step} for step in (10, 20, 40)]
    assert mean_lead(fine, coarse) == pytest.approx(0.005 * 17.5)


def test_the_commonest_errors_come_first_and_what_is_right_is_none() -> None:
    found = most_confused([[5, 3, 0], [4, 1, 0], [0, 0, 9]], ("a", "b", "c"))
    assert found == [
        {"label": "b", "predicted": "a", "samples": 4, "share": 0.8},
        {"label": "a", "predicted": "b", "samples": 3, "share": 0.375},
    ]
    assert len(most_confused([[0, 3, 2], [4, 1, 7], [1, 1, 1]], ("a", "b", "c"), num=2)) == 2
