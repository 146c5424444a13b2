import csv
import io
from typing import Any

import pytest
from records_by_hand import config, done, failed
from rich.console import Console
from scipy.stats import kendalltau

from graft.reports.ranking import fine_tuned, in_order, labels, print_ranking, ranking_csv, weighted_taus


def row(logme: float | None = 0.5, accuracy: float | None = None, **changes: Any) -> dict[str, Any]:
    """What a ranking says of a candidate."""
    figure = None if accuracy is None else {"mean": accuracy, "std": None, "interval": None, "n": 1, "seeds": [0]}
    values = {
        "overrides": ["source=glyphs"],
        "config": config(),
        "weights": "source",
        "target_data": "1" * 64,
        "num_samples": 50,
        "num_classes": 10,
        "num_features": 84,
        "pretrain_seconds": 6.0,
        "features_seconds": 0.25,
        "scores": {"logme": logme, "leep": None},
        "score_seconds": {"logme": 0.5, "leep": None},
        "fine_tuned": figure,
    }
    return values | changes


def ranking(*rows: dict[str, Any]) -> dict[str, Any]:
    names = ["logme", "leep"]
    return {
        "target": "digits",
        "scores": names,
        "by": "logme",
        "candidates": list(rows),
        "weighted_tau": weighted_taus(rows, names),
    }


def printed(*rows: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_ranking(ranking(*rows), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_highest_score_comes_first_and_none_last() -> None:
    rows = [row(None), row(-2.0), row(3.0), row(0.0)]
    assert [one["scores"]["logme"] for one in in_order(rows, "logme")] == [3.0, 0.0, -2.0, None]


def test_the_runs_of_a_candidate_are_those_of_its_configuration() -> None:
    same = [done(0.9), done(0.8, seed=1)]
    others = [
        done(0.1, strategy="scratch"),
        done(0.1, target_labels_per_class=5),
        failed("no"),
        done(0.1) | {"fingerprints": done(0.1)["fingerprints"] | {"target_data": "f" * 64}},
    ]
    found = fine_tuned(row(), [*same, *others])
    assert found is not None
    assert (found["mean"], found["n"], found["seeds"]) == (pytest.approx(0.85), 2, [0, 1])
    assert fine_tuned(row(), others) is None


def test_baselines_and_where_things_are_written_do_not_matter() -> None:
    record = done(0.9)
    record["config"] |= {"baselines": {"scratch": {"name": "scratch"}}, "name": "mine", "paths": {"outputs": "there"}}
    assert fine_tuned(row(), [record]) is not None


def test_runs_that_differ_in_code_are_not_averaged() -> None:
    old, new = done(0.2), done(0.9, seed=1)
    old["fingerprints"] = old["fingerprints"] | {"code": "5" * 64}
    old["finished"] = "2020-01-01T00:00:00+00:00"
    found = fine_tuned(row(), [new, old])
    assert found is not None
    assert (found["mean"], found["seeds"]) == (0.9, [1])


def test_tau_is_1_for_the_same_order_and_weighs_the_top_more() -> None:
    accuracies = (0.9, 0.8, 0.7, 0.6)

    def tau(*scores: float) -> float:
        rows = [row(score, accuracy) for score, accuracy in zip(scores, accuracies, strict=True)]
        value = weighted_taus(rows, ["logme"])["logme"]
        assert value is not None
        return value

    assert tau(4, 3, 2, 1) == pytest.approx(1.0)
    assert tau(1, 2, 3, 4) == pytest.approx(-1.0)
    top_swapped, bottom_swapped = tau(3, 4, 2, 1), tau(4, 3, 1, 2)
    assert top_swapped < kendalltau((3, 4, 2, 1), accuracies).statistic < bottom_swapped < 1


def test_tau_by_its_definition() -> None:
    """Pairs weigh 1 / (1 + r) + 1 / (1 + s), r and s the places of the two, averaged over both orders."""
    scores, accuracies = (0.3, 0.9, 0.1, 0.5, 0.4), (0.7, 0.8, 0.75, 0.6, 0.9)

    def by(order: tuple[float, ...]) -> float:
        place = [sorted(order, reverse=True).index(value) for value in order]
        agreed = weight = 0.0
        for i in range(5):
            for j in range(i):
                pair = 1 / (1 + place[i]) + 1 / (1 + place[j])
                weight += pair
                agreed += pair if (scores[i] > scores[j]) == (accuracies[i] > accuracies[j]) else -pair
        return agreed / weight

    rows = [row(score, accuracy) for score, accuracy in zip(scores, accuracies, strict=True)]
    assert weighted_taus(rows, ["logme"])["logme"] == pytest.approx((by(scores) + by(accuracies)) / 2)


def test_tau_of_what_cannot_be_compared_is_none() -> None:
    assert weighted_taus([row(1.0, 0.9), row(2.0)], ["logme"])["logme"] is None
    assert weighted_taus([row(1.0, 0.9), row(1.0, 0.8)], ["logme"])["logme"] is None
    assert weighted_taus([row(1.0, 0.9), row(2.0, 0.8)], ["leep"])["leep"] is None


def test_labels_say_what_differs() -> None:
    jobs = [["target=usps", "backbone=cnn"], ["target=usps", "backbone=resnet20", "+a.b=3"]]
    assert labels(jobs) == ["backbone=cnn", "backbone=resnet20 b=3"]
    assert labels([["target=usps", "x.path=/d/usps.npz"]]) == ["target=usps path=usps.npz"]
    assert labels([["x.path=/a/u.npz"], ["x.path=/b/u.npz"]]) == ["path=/a/u.npz", "path=/b/u.npz"]
    assert labels([[]]) == ["default"]


def test_the_table_shows_scores_costs_and_taus() -> None:
    text = printed(row(0.5, 0.9), row(0.25, 0.8, overrides=["source=digits"]))
    lines = [line.split() for line in text.splitlines()]
    assert text.strip().startswith("digits, 50 training samples of 10 classes, sorted by logme")
    assert ["source=glyphs", "6.0", "0.2", "0.500", "–", "90.0"] in lines
    assert ["source=digits", "6.0", "0.2", "0.250", "–", "80.0"] in lines
    assert ["seconds", "12.0", "0.5", "1.0", "–"] in lines
    assert ["weighted", "Kendall", "tau", "+1.00", "–"] in lines
    assert "needs the source's classifier" in text


def test_a_narrow_console_shows_every_score_whole() -> None:
    names = ["h_score", "knn", "leep", "linear_probe", "logme", "nce", "transrate"]
    values = dict.fromkeys(names, -10.123)
    long = ["backbone=mobilenet_v2", "backbone.weights=/somewhere/mobilenet_v2_imagenet.safetensors"]
    wide = row(0.5, 0.9, overrides=long, scores=values, score_seconds=values)
    console = Console(file=io.StringIO(), width=80)
    print_ranking(ranking(wide) | {"scores": names, "weighted_tau": dict.fromkeys(names, 0.5)}, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("-10.123") == 7
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "pretrain " not in text


def test_the_table_without_runs_has_no_place_for_them() -> None:
    text = printed(row(0.5), row(0.25))
    assert "tuned" not in text
    assert "tau" not in text


def test_csv_has_a_line_for_each_candidate_in_order() -> None:
    rows = [row(0.25, 0.8, overrides=["source=digits", "a=1"]), row(0.5)]
    first, second = csv.DictReader(io.StringIO(ranking_csv(ranking(*rows))))
    assert (first["rank"], first["candidate"], first["fine_tuned"], first["runs"]) == ("1", "source=glyphs", "", "0")
    assert (second["logme"], second["leep"], second["logme_seconds"]) == ("0.25", "", "0.5")
    assert (second["candidate"], second["fine_tuned"]) == ("source=digits a=1", "0.8")
