"""The closing words of a search."""

import io

from rich.console import Console

from graft.reports.search import SearchResult, Trial, print_search

TRIALS = [
    Trial(0, "s/0", "complete", {"strategy": "lp_ft", "optimizer.lr": 0.0123456}, 0.8, 4),
    Trial(1, "s/1", "pruned", {"strategy": "lp_ft", "optimizer.lr": 0.1}, 0.1, 1),
    Trial(2, "s/2", "complete", {"strategy": "scratch", "optimizer.lr": 0.2}, 0.9, 4),
    Trial(3, "s/3", "failed", {"strategy": "scratch", "optimizer.lr": 0.3}, None, None),
    Trial(4, "s/4", "running", {"strategy": "scratch", "optimizer.lr": 0.4}, None, 2),
]


def printed(result: SearchResult) -> list[str]:
    file = io.StringIO()
    print_search(result, Console(file=file, width=100))
    return [line.rstrip() for line in file.getvalue().splitlines() if line.strip()]


def test_the_best_come_first_and_the_others_are_counted() -> None:
    lines = printed(SearchResult("val/accuracy", True, 6, TRIALS, {"optimizer.lr": 0.75, "strategy": 0.25}))
    assert [line.split() for line in lines[:3]] == [
        ["trial", "strategy", "lr", "val/accuracy"],
        ["2", "scratch", "0.2", "0.9000"],
        ["0", "lp_ft", "0.01235", "0.8000"],
    ]
    assert lines[3] == ("5 of 6 trials: 2 complete, 1 pruned (after 1 epoch), 1 failed, 1 still running or cut off")
    assert lines[4] == "best: val/accuracy 0.9000, strategy=scratch optimizer.lr=0.2 (s/2)"
    assert lines[5].startswith("importance: optimizer.lr 75 %, strategy 25 %")


def test_what_is_minimised_begins_with_the_least() -> None:
    assert SearchResult("val/loss", False, 5, TRIALS, {}).best[0].number == 0


def test_a_search_without_a_complete_trial_has_no_table() -> None:
    assert printed(SearchResult("val/loss", False, 5, TRIALS[3:4], {})) == [
        "1 of 5 trials: 0 complete, 0 pruned, 1 failed"
    ]
