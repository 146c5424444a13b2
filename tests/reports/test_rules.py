"""The choices of selection rules in tables."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from records_by_hand import done
from rich.console import Console

from graft.reports.export import markdown_summary, results_csv
from graft.reports.rules import rules_of
from graft.reports.selection import print_selection, selection_rows
from graft.reports.terminal import print_run, run_rows

ACCURACY = "target/test/accuracy"


def adapted(accuracies: dict[str, float | None], rule: str = "last", **settings: Any) -> dict[str, Any]:
    """A record whose rules chose epochs of these accuracies; None for a rule that found all epochs collapsed."""
    record = done(accuracies[rule] or 0.1, **settings)
    entries: dict[str, Any] = {}
    for name, accuracy in accuracies.items():
        entries[name] = {"epoch": 3, "score": 0.25, ACCURACY: 0.1 if accuracy is None else accuracy}
        if accuracy is None:
            entries[name] |= {"score": None, "collapsed": True}
    record["selection"] |= entries | {"rule": rule}
    return record


RULES = {"last": 0.8, "best_val": 0.7, "entropy": 0.75, "dev": None, "oracle": 0.9}


def printed(record: dict[str, Any]) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    print_run(record, Path("run"), console)
    return console.export_text()


def test_a_run_shows_its_rules_side_by_side_and_marks_headline_and_oracle() -> None:
    lines = [" ".join(line.split()) for line in printed(adapted(RULES, "entropy")).splitlines()]
    assert "entropy (headline) 3 0.250 75.0 %" in lines
    assert "oracle (by test labels) 3 0.250 90.0 %" in lines
    assert "dev collapsed" in lines
    assert any(line.startswith("Collapsed: in every epoch that was scored") for line in lines)
    assert ("target accuracy", "75.0 % on test, best by entropy") in run_rows(adapted(RULES, "entropy"))


def test_a_headline_of_a_rule_that_chose_none_says_so() -> None:
    text = " ".join(printed(adapted(RULES, "dev")).split())
    assert "no rule chose any, and the last stands in for dev" in text


@pytest.mark.parametrize("record", [done(0.9), adapted({"last": 0.8, "best_val": 0.7})])
def test_nothing_is_said_where_there_was_nothing_but_validation_to_choose_by(record: dict[str, Any]) -> None:
    assert rules_of(record) == {}
    assert "selection rule" not in printed(record)
    assert selection_rows([record]) == ([], [])


def test_rules_by_setting() -> None:
    records = [
        adapted(RULES, seed=0),
        adapted(RULES | {"last": 0.9, "entropy": None}, seed=1),
        done(0.5, strategy="lp_ft"),
    ]
    rows, cells = selection_rows(records)
    assert [row["setting"] for row in rows] == [{"strategy": "fine_tune"}]
    assert cells == [
        {
            "last epoch": "85.0 ± 7.1",
            "best on val": "70.0 ± 0.0",
            "entropy": "75.0 (1)",
            "dev": "none",
            "oracle (by test labels)": "90.0 ± 0.0",
        }
    ]
    files = [(Path(f"run{number}"), record) for number, record in enumerate(records)]
    assert "| fine_tune | 85.0 ± 7.1 | 70.0 ± 0.0 | 75.0 (1) | none | 90.0 ± 0.0 |" in markdown_summary(files)
    line = next(csv.DictReader(io.StringIO(results_csv(files))))
    assert (line["selection/entropy/epoch"], line["selection/entropy/target/test/accuracy"]) == ("3", "0.75")


@pytest.mark.parametrize(("width", "expected"), [(100, "85.0 ± 7.1"), (60, "85.0")])
def test_spread_gives_way_before_rules_do(width: int, expected: str) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    print_selection([adapted(RULES, seed=0), adapted(RULES | {"last": 0.9}, seed=1)], console)
    text = console.export_text()
    assert expected in text
    assert ("±" in text) == ("±" in expected)
    assert "no room" not in text
