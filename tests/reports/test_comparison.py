"""Settings compared on the same seeds: recomputed from the records by plain loops and scipy.stats."""

import io
from typing import Any

import pytest
from records_by_hand import done, in_folders
from rich.console import Console
from scipy import stats

from graft.errors import UserError
from graft.reports.comparison import compared_rows, importance, parse_reference
from graft.reports.comparison_table import comparison_cells, method, notes, p_text, print_comparison
from graft.reports.export import markdown_summary
from graft.reports.latex import escape, latex_summary, number
from graft.reports.tables import Study

ACCURACY = {
    ("scratch", 1): [0.40, 0.45, 0.41],
    ("scratch", 5): [0.70, 0.74, 0.69],
    ("linear_probe", 1): [0.55, 0.52, 0.58],
    ("linear_probe", 5): [0.68, 0.71, 0.70],
    ("fine_tune", 1): [0.61, 0.63, 0.70],
    ("fine_tune", 5): [0.82, 0.85, 0.80],
}
TRAINED = {"scratch": 100, "linear_probe": 10, "fine_tune": 100}


def sweep(accuracies: dict[tuple[str, int], list[float]] = ACCURACY) -> list[dict[str, Any]]:
    records = []
    for (strategy, labels), values in accuracies.items():
        for seed, value in enumerate(values):
            scratch = ACCURACY["scratch", labels][seed]
            record = done(value, scratch, strategy=strategy, seed=seed, target_labels_per_class=labels)
            record["fingerprints"]["target_data"] = f"{labels:064x}"
            record["cost"]["trainable_parameters"] = TRAINED[strategy]
            records.append(record)
    return records


def by_setting(records: list[dict[str, Any]], **reference: str) -> dict[tuple[str, int], dict[str, Any]]:
    rows = compared_rows(Study(records), reference)
    return {(row["setting"]["strategy"], int(row["setting"]["target.labels_per_class"])): row for row in rows}


def step_down(p_values: list[float]) -> dict[float, float]:
    """Holm's correction as in his paper, one rejection after the other."""
    adjusted, before = {}, 0.0
    for left, p in zip(range(len(p_values), 0, -1), sorted(p_values), strict=True):
        before = adjusted[p] = min(1.0, max(before, left * p))
    return adjusted


@pytest.mark.parametrize("reference", ["scratch", "linear_probe"])
def test_a_reference_is_compared_on_the_same_seeds_and_budget(reference: str) -> None:
    rows = by_setting(sweep(), strategy=reference)
    expected = {
        key: stats.ttest_rel(values, ACCURACY[reference, key[1]])
        for key, values in ACCURACY.items()
        if key[0] != reference
    }
    adjusted = step_down([test.pvalue for test in expected.values()])
    for key, test in expected.items():
        found = rows[key]["comparison"]
        low, high = test.confidence_interval(0.95)
        assert found["pairs"] == 3
        assert found["p"] == pytest.approx(test.pvalue)
        assert found["adjusted"] == pytest.approx(adjusted[test.pvalue])
        assert found["difference"]["mean"] == pytest.approx((low + high) / 2)
        assert found["difference"]["interval"] == pytest.approx((high - low) / 2)
    for labels in (1, 5):
        assert rows[reference, labels]["comparison"] == {
            "difference": None,
            "pairs": 0,
            "p": None,
            "adjusted": None,
        }


def test_without_a_reference_each_run_is_compared_with_its_own_baseline() -> None:
    own, named = by_setting(sweep()), by_setting(sweep(), strategy="scratch")
    for key in ACCURACY:
        if key[0] != "scratch":
            assert own[key]["comparison"]["p"] == pytest.approx(named[key]["comparison"]["p"])
    assert own["scratch", 1]["comparison"]["p"] is None
    assert own["scratch", 1]["comparison"]["difference"]["mean"] == 0.0


def test_order_does_not_matter_and_lonely_seeds_do_not_count() -> None:
    records = [record for record in sweep() if not (record["strategy"] == "linear_probe" and record["seed"] == 1)]
    rows = by_setting(records[::-1], strategy="linear_probe")
    assert rows["fine_tune", 1]["n"] == 3
    assert rows["fine_tune", 1]["comparison"]["pairs"] == 2
    assert rows["fine_tune", 1]["comparison"]["p"] is None
    assert rows["fine_tune", 1]["comparison"]["difference"]["mean"] == pytest.approx((0.06 + 0.12) / 2)


@pytest.mark.parametrize(
    ("name", "value", "pairs"),
    [
        ("code", "f" * 64, 0),
        ("packages", "f" * 64, 0),
        ("target_data", "f" * 64, 0),
        ("device", "NVIDIA H100", 0),
        ("device", "cpu, 8 threads", 3),
        ("weights", "f" * 64, 3),
    ],
)
def test_runs_under_other_conditions_are_not_compared(name: str, value: str, pairs: int) -> None:
    records = sweep()
    for record in records:
        if record["strategy"] == "fine_tune":
            record["fingerprints"][name] = value
    rows = by_setting(records, strategy="linear_probe")
    assert rows["fine_tune", 1]["comparison"]["pairs"] == pairs
    said = dict(notes(list(rows.values()), records, {"strategy": "linear_probe"}))
    assert ("Not compared" in said) is (pairs == 0)


def test_budgets_are_compared_although_their_data_differ() -> None:
    rows = by_setting(sweep(), **{"target.labels_per_class": "1"})
    assert rows["fine_tune", 5]["comparison"]["difference"]["mean"] == pytest.approx((0.21 + 0.22 + 0.10) / 3)


def test_a_reference_may_be_of_a_choice_with_keys_of_its_own() -> None:
    plain = [done(0.8 + seed / 100, seed=seed, strategy="plain") for seed in range(3)]
    tuned = [done(0.9, seed=seed, strategy="tuned", strategy_depth=depth) for seed in range(3) for depth in (1, 2)]
    study = Study([*plain, *tuned])
    assert study.names == ["strategy", "strategy.depth"]
    rows = compared_rows(study, {"strategy": "plain"})
    assert [row["comparison"]["pairs"] for row in rows] == [0, 3, 3]
    with pytest.raises(UserError, match=r"stands for 2 settings; give strategy\.depth too"):
        compared_rows(study, {"strategy": "tuned"})
    assert compared_rows(study, {"strategy": "tuned", "strategy.depth": "2"})[0]["comparison"]["pairs"] == 3


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("strategy", "expected KEY=VALUE"),
        ("strateg=scratch", "strateg does not vary between these runs; did you mean 'strategy'?"),
        ("strategy=linear_prob", "no run has 'linear_prob'; did you mean 'linear_probe'?"),
        ("optimizer.lr=1", "optimizer.lr does not vary"),
    ],
)
def test_what_cannot_be_a_reference(word: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_reference([word], Study(sweep()))
    assert message in str(error.value)
    assert str(error.value).startswith(f"--against {word}: ")


def test_a_reference_goes_by_short_names_too() -> None:
    study = Study(sweep())
    expected = {"strategy": "scratch", "target.labels_per_class": "5"}
    assert parse_reference(["strategy=scratch", "labels_per_class=5"], study) == expected


def test_fronts_are_of_one_target_and_budget() -> None:
    rows = by_setting(sweep())
    assert {key for key, row in rows.items() if row["front"]["trained"]} == {
        (strategy, labels) for strategy in ("linear_probe", "fine_tune") for labels in (1, 5)
    }


def test_importance_recomputed_by_plain_loops() -> None:
    records = sweep()
    found = {each["name"]: each for each in importance(Study(records))}
    values = [(key, seed, value) for key, group in ACCURACY.items() for seed, value in enumerate(group)]
    mean = sum(value for _, _, value in values) / 18
    total = sum((value - mean) ** 2 for _, _, value in values)
    factors = {
        "strategy": lambda key, seed: key[0],
        "target.labels_per_class": lambda key, seed: key[1],
        "seed": lambda key, seed: seed,
    }
    shares = {}
    for name, level_of in factors.items():
        between = 0.0
        for level in {level_of(key, seed) for key, seed, _ in values}:
            group = [value for key, seed, value in values if level_of(key, seed) == level]
            between += len(group) * (sum(group) / len(group) - mean) ** 2
        shares[name] = between / total
        assert found[name]["share"] == pytest.approx(shares[name])
    assert found["rest"]["share"] == pytest.approx(1 - sum(shares.values()))
    assert found["strategy"]["chance"] == pytest.approx(2 / 17)
    assert "rest" not in {each["name"] for each in importance(Study(records[1:]))}


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_are_warned_of(seeds: int) -> None:
    records = sweep({key: values[:seeds] for key, values in ACCURACY.items()})
    rows = compared_rows(Study(records), {})
    assert all(row["comparison"]["p"] is None for row in rows)
    text = dict(notes(rows, records, {}))["Too few seeds"]
    assert text.startswith("6 of 6 rows have fewer than 3 runs: nothing can be concluded")


def test_without_baselines_the_reader_is_told_how_to_compare() -> None:
    records = [done(0.8 + seed / 100, scratch=None, strategy=name, seed=seed) for name in "ab" for seed in range(3)]
    rows = compared_rows(Study(records), {})
    assert "--against KEY=VALUE" in dict(notes(rows, records, {}))["Not compared"]
    assert "a baseline, which no run has" in method(rows, {})


def test_the_table_in_the_terminal() -> None:
    text = io.StringIO()
    reference = {"strategy": "linear_probe"}
    print_comparison(Study(sweep()), reference, Console(file=text, width=120, highlight=False))
    lines = [line.split() for line in text.getvalue().splitlines() if line.strip()]
    assert lines[0] == ["labels_per_class", "strategy", "accuracy", "difference", "pairs", "p", "p", "(Holm)", "front"]
    test = stats.ttest_rel(ACCURACY["fine_tune", 1], ACCURACY["linear_probe", 1])
    half = (test.confidence_interval(0.95).high - test.confidence_interval(0.95).low) / 2
    [line] = [line for line in lines if line[:2] == ["1", "fine_tune"]]
    assert line[5:10] == ["+9.7", "±", f"{100 * half:.1f}", "3", f"{test.pvalue:.3f}"]
    assert [line[5] for line in lines if line[1] == "linear_probe"] == ["reference", "reference"]
    printed = " ".join(text.getvalue().split())
    assert "difference to strategy=linear_probe, paired by seeds and splits" in printed
    assert "4 comparisons after Holm's correction" in printed
    assert "Share of the variance of accuracy: target.labels_per_class" in printed


def test_markdown_has_the_comparison_where_it_is_asked_for() -> None:
    runs = in_folders(*sweep())
    assert "p (Holm)" not in markdown_summary(runs)
    text = markdown_summary(runs, {})
    assert "| labels_per_class | strategy | accuracy | difference | pairs | p | p (Holm) | front |" in text
    assert "each run's own baseline (scratch)" in text


def test_latex_is_escaped_and_a_row_a_setting() -> None:
    hostile = done(0.9, strategy=r"a_b & 5% {x} \input ~^")
    text = latex_summary(in_folders(hostile, done(0.8)), {})
    assert r"a\_b \& 5\% \{x\} \textbackslash{}input \textasciitilde{}\textasciicircum{}" in text
    assert text.count(r" \\") == 3
    assert [line for line in text.splitlines() if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert latex_summary([], {}) == "% no finished run\n"


def test_figures_in_latex() -> None:
    assert number("+4.6 ± 0.1") == r"$+4.6 \pm 0.1$"
    assert number("61,326") == "$61{,}326$"
    assert number("<0.001") == "$<0.001$"
    assert number("reference") == "reference"
    assert escape("±") == r"$\pm$"


def test_cells_of_nothing_to_compare() -> None:
    [row] = compared_rows(Study([done(0.9, scratch=None)]), {})
    [cells] = comparison_cells([row], {})
    assert cells == {
        "accuracy": "90.0",
        "difference": "",
        "pairs": "",
        "p": "",
        "p (Holm)": "",
        "front": "seconds trained",
    }
    assert p_text(0.0004) == "<0.001"
