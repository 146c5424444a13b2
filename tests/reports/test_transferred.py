"""The table of what was transferred, and the labels that scratch needs."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records_by_hand import done, failed, in_folders, with_transferred
from rich.console import Console

from graft.records.record import write_record
from graft.reports.export import markdown_summary, results_csv
from graft.reports.labels import labels_needed, scratch_curves
from graft.reports.report import report
from graft.reports.transferred import transferred_rows

SCRATCH = {1: (0.30, 0.34), 4: (0.50, 0.54), 16: (0.70, 0.74)}  # labels a class -> accuracies of two seeds
BUDGETS = st.dictionaries(
    st.integers(1, 1000), st.lists(st.floats(0, 1), min_size=1, max_size=3), min_size=1, max_size=5
)


def sweep(strategy: str, *gains: float, **settings: Any) -> list[dict[str, Any]]:
    """Two seeds at each budget, so much better than scratch."""
    return [
        with_transferred(
            done(scratch + gain, scratch, strategy=strategy, seed=seed, target_labels_per_class=n, **settings)
        )
        | {"training_labels": 10 * n}
        for (n, accuracies), gain in zip(SCRATCH.items(), gains, strict=True)
        for seed, scratch in enumerate(accuracies)
    ]


def needs(records: list[dict[str, Any]]) -> list[str]:
    return [texts["scratch needs"] for texts in transferred_rows(records)[1]]


def test_labels_that_scratch_needs_come_from_the_baselines() -> None:
    """Scratch gains 0.1 with every doubling: half-way to the next budget is twice the labels."""
    assert needs(sweep("fine_tune", 0.1, 0.1, 0.1)) == ["20 (2.0x)", "80 (2.0x)", ">160"]
    assert needs(sweep("linear_probe", -0.1, -0.1, -0.1)) == ["≤10", "20 (0.5x)", "80 (0.5x)"]


def test_scratch_itself_needs_no_comparison_and_serves_where_there_are_no_baselines() -> None:
    scratch = [record | {"baselines": {}, "transfer": {}, "transferred": {}} for record in sweep("scratch", 0, 0, 0)]
    tuned = [record | {"baselines": {}, "transfer": {}} for record in sweep("fine_tune", 0.1, 0.1, 0.1)]
    assert needs(scratch + tuned) == ["", "", "", "20 (2.0x)", "80 (2.0x)", ">160"]
    assert transferred_rows(scratch)[1][0].keys() == {"ECE", "Brier", "labels"}


def test_scratch_with_a_regulariser_or_an_adapter_is_no_baseline() -> None:
    records = [record | {"baselines": {}, "transfer": {}} for record in sweep("scratch", 0, 0, 0)]
    assert len(scratch_curves(records)) == 1
    assert scratch_curves([record | {"adapter": {"kind": "lora"}} for record in records]) == {}
    regularised = [record | {"config": record["config"] | {"regulariser": {"bss": {}}}} for record in records]
    assert scratch_curves(regularised) == {}


@pytest.mark.parametrize("part", ["regulariser", "adapter", "after"])
def test_what_the_baselines_are_without_leaves_their_curve_one(part: str) -> None:
    plain = sweep("fine_tune", 0, 0, 0)
    other = [record | {"config": record["config"] | {part: {"name": "other"}}} for record in plain]
    assert len(scratch_curves(plain + other)) == 1


def test_a_backbone_whose_layer_groups_are_not_compared_has_no_cka() -> None:
    record = with_transferred(done(0.9), groups={}, moved=0.0, moved_relative=0.0)
    [texts] = transferred_rows([record])[1]
    assert "CKA" not in texts
    assert texts["moved"] == "0.0"


def test_curves_of_unlike_trainings_are_kept_apart() -> None:
    slow, fast = sweep("fine_tune", 0, 0, 0), sweep("fine_tune", 0, 0, 0, optimizer_lr=0.01)
    other_code = sweep("fine_tune", 0, 0, 0)
    for record in other_code:
        record["fingerprints"]["code"] = "5" * 64
    assert [len(curve) for curve in scratch_curves(slow + fast + other_code).values()] == [3, 3, 3]
    [curve] = scratch_curves(slow + sweep("lp_ft", 0, 0, 0)).values()
    assert curve == {10: [0.30, 0.34], 40: [0.50, 0.54], 160: [0.70, 0.74]}


def test_one_budget_says_nothing_of_labels() -> None:
    [texts] = transferred_rows(sweep("fine_tune", 0.1, 0.1, 0.1)[:2])[1]
    assert texts == {
        "forgotten": "+4.7 ± 0.0",
        "moved": "10.0 ± 0.0",
        "sooner": "1.5 ± 0.0x",
        "lead": "+16.8 ± 0.0",
        "ECE": "3.1 ± 0.0",
        "Brier": "0.120 ± 0.000",
    }


def test_runs_that_never_reached_the_baseline_are_counted() -> None:
    first, second = sweep("fine_tune", 0, 0, 0)[:2]
    second["transfer"] |= {"speedup_in_steps": None}
    assert transferred_rows([first, second])[1][0]["sooner"] == "1.5x (1 of 2)"
    first["transfer"] |= {"speedup_in_steps": None}
    assert transferred_rows([first, second])[1][0]["sooner"] == "never"


def test_records_without_any_of_it_make_no_table() -> None:
    assert transferred_rows([done(0.9), failed("broken", seed=1)]) == ([], [])


@given(BUDGETS, st.floats(0, 1), st.floats(0, 1))
def test_more_accuracy_never_needs_fewer_labels(budgets: dict[int, list[float]], first: float, second: float) -> None:
    low, high = (labels_needed(accuracy, budgets) for accuracy in sorted((first, second)))
    assert low.least <= high.least + 1e-6
    if high.most is not None:
        assert low.most is not None
        assert low.most <= high.most + 1e-6
        assert high.most <= max(budgets) + 1e-6


def test_it_is_in_every_form_of_the_report(tmp_path: Path) -> None:
    records = in_folders(*sweep("fine_tune", 0.1, 0.1, 0.1), root=tmp_path)
    for folder, record in records:
        write_record(folder, record)
    text = io.StringIO()
    report([tmp_path], Console(file=text, width=120))
    assert "80 (2.0x)" in text.getvalue()
    assert "| 80 (2.0x) |" in markdown_summary(records)
    line = next(csv.DictReader(io.StringIO(results_csv(records))))
    assert line["forgotten"] == "0.047"
    assert [line[f"backbone.{name}"] for name in ("stage1/moved", "stage1/cka", "stage2/cka")] == ["0.5", "0.9876", ""]
    assert (line["training_labels"], line["speedup_in_steps"], line["mean_lead"]) == ("10", "1.5", "0.1675")


@pytest.mark.parametrize("width", [60, 200])
def test_what_is_left_out_for_want_of_room_is_named(tmp_path: Path, width: int) -> None:
    for folder, record in in_folders(*sweep("fine_tune", 0.1, 0.1, 0.1), root=tmp_path):
        write_record(folder, record)
    text = io.StringIO()
    report([tmp_path], Console(file=text, width=width))
    assert "…" not in text.getvalue()
    assert (re.search(r"no\s+room\s+for\s+Brier", text.getvalue()) is not None) is (width < 200)
