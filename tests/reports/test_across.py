"""A table with a column for each value of what varied."""

from pathlib import Path

import pytest
from records_by_hand import done

from graft.errors import UserError
from graft.reports.across import markdown_across

RUNS = [
    (Path(f"{strategy}-{labels}-{seed}"), done(accuracy + 0.02 * seed, 0.5, strategy=strategy, seed=seed,
                                               target_labels_per_class=labels))
    for strategy, labels, accuracy in (("fine_tune", 10, 0.8), ("fine_tune", 2, 0.6), ("linear_probe", 10, 0.7))
    for seed in (0, 1)
]  # fmt: skip


def test_one_row_for_each_strategy_and_one_column_for_each_budget() -> None:
    lines = markdown_across(RUNS, "labels_per_class").splitlines()
    assert lines[0] == "| strategy | labels_per_class=2 | labels_per_class=10 | n | seconds | trained |"
    fine_tune, probe = (line.split(" | ") for line in lines[2:4])
    assert fine_tune[:4] == ["| fine_tune", "61.0 ± 1.4 (+11.0 ± 1.4)", "81.0 ± 1.4 (+31.0 ± 1.4)", "2"]
    assert probe[:4] == ["| linear_probe", "", "71.0 ± 1.4 (+21.0 ± 1.4)", "2"]


def test_only_what_varied() -> None:
    with pytest.raises(UserError, match="--across sed: does not vary"):
        markdown_across(RUNS, "sed")
