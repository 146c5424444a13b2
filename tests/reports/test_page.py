"""The page: its figures recomputed from the records, its text escaped, nothing fetched, and of bounded size."""

import re
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from pages import CONFUSION, HOSTILE, SCRATCH, SWEEP, Tables, page, sweep, with_picture
from records_by_hand import done, failed, history
from scipy import stats

from graft.records.record import write_record
from graft.reports.console import make_console
from graft.reports.page_plots import commonest_errors, mean_curve
from graft.reports.report import UNUSED, Trimmed, report


@pytest.fixture(scope="module")
def text() -> str:
    return page(sweep())


def test_the_figures_of_settings_are_those_of_the_records(text: str) -> None:
    """Everything again, from the accuracies alone, by scipy.stats and plain loops."""
    rows = {
        (row["strategy"][0], int(str(row["labels_per_class"][0]))): row for row in Tables(text).rows("settings-table")
    }
    assert rows.keys() == SWEEP.keys()
    tests = {key: stats.ttest_rel(values, SCRATCH[key[1]]) for key, values in SWEEP.items()}
    order = sorted(tests, key=lambda key: tests[key].pvalue)
    corrected = 0.0
    for place, key in enumerate(order):
        corrected = max(corrected, min(1.0, (len(order) - place) * tests[key].pvalue))
        row, values = rows[key], SWEEP[key]
        low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
        difference = tests[key].confidence_interval(0.95)
        assert float(str(row["accuracy"][1])) == pytest.approx(np.mean(values))
        assert row["accuracy"][0] == f"{100 * np.mean(values):.1f} ± {50 * (high - low):.1f}"
        mean, half = (difference.high + difference.low) / 2, (difference.high - difference.low) / 2
        assert float(str(row["difference"][1])) == pytest.approx(mean)
        assert row["difference"][0] == f"{100 * mean:+.1f} ± {100 * half:.1f}"
        assert float(str(row["p"][1])) == pytest.approx(tests[key].pvalue)
        assert float(str(row["p (Holm)"][1])) == pytest.approx(corrected)
        assert [row[name][1] for name in ("n", "pairs")] == ["3", "3"]
        assert float(str(row["seconds"][1])) == pytest.approx(2.5)
        assert row["trained"][0] == ("850" if key[0] == "linear_probe" else "61,326")
    # All took 2.5 s on average, so that the most accurate of a budget alone is on the front of seconds.
    fronts = {key: row["front"][0] for key, row in rows.items()}
    assert fronts == {
        ("linear_probe", 1): "trained",
        ("linear_probe", 5): "trained",
        ("fine_tune", 1): "seconds trained",
        ("fine_tune", 5): "seconds trained",
    }


def test_a_reference_has_no_difference() -> None:
    rows = Tables(page(sweep(), strategy="linear_probe")).rows("settings-table")
    shown = {row["strategy"][0]: row["difference"][0] for row in rows}
    assert shown["linear_probe"] == "reference"
    assert shown["fine_tune"].startswith("+")


def test_every_run_has_a_row_and_failures_say_why(text: str) -> None:
    rows = Tables(text).rows("runs-table")
    assert [row["run"][0] for row in rows] == [f"sweep/{number}" for number in range(13)]
    assert [float(str(row["accuracy"][1])) for row in rows[:-1]] == [
        value for group in SWEEP.values() for value in group
    ]
    assert rows[-1]["status"][0] == f"failed: no {HOSTILE}"


def test_importance_is_that_of_its_definition(text: str) -> None:
    shares = {row["name"][0]: float(str(row["share"][1])) for row in Tables(text).rows("importance-table")}
    values = [(key[0], value) for key, group in SWEEP.items() for value in group]
    mean = fmean(value for _, value in values)
    groups = [[value for name, value in values if name == strategy] for strategy in ("linear_probe", "fine_tune")]
    between = sum(len(group) * (fmean(group) - mean) ** 2 for group in groups)
    assert shares["strategy"] == pytest.approx(between / sum((value - mean) ** 2 for _, value in values))
    assert sum(shares.values()) == pytest.approx(1)


def test_nothing_is_fetched_and_all_is_text(text: str) -> None:
    tables = Tables(text)
    assert [tag for tag, _ in tables.tags].count("script") == 1
    assert not any("onerror" in attributes for _, attributes in tables.tags)
    addresses = [
        value for _, attributes in tables.tags for name in ("src", "href", "action") if (value := attributes.get(name))
    ]
    assert addresses
    assert all(value.startswith(("#", "data:")) for value in addresses)
    assert not re.search(r"@import|url\(|https?://", text)
    assert "default-src 'none'" in text
    assert HOSTILE not in text
    assert "&lt;script&gt;window.hacked=1&lt;/script&gt;" in text


def test_pictures_and_tables_say_what_they_show(text: str) -> None:
    tags = Tables(text).tags
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "svg" and "role" in attributes)
    assert text.count("<table") == text.count("<caption")
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    anchors = {attributes["href"] for tag, attributes in tags if tag == "a"}
    assert anchors == {f"#{attributes['id']}" for tag, attributes in tags if tag == "h2"}


def test_confusion_is_summed_over_the_runs_of_a_setting_with_pictures(tmp_path: Path) -> None:
    with_picture(tmp_path / "10")
    text = page(sweep(), tmp_path)
    assert text.count("<details") == 5  # four settings, and the runs
    assert "cat taken for &lt;script&gt;window.hacked=1&lt;/script&gt;: 6 of 60" in text
    assert text.count('<img src="data:image/png;base64,') == 1
    assert "the run with seed 1 got wrong" in text


def test_a_matrix_of_many_classes_is_a_picture() -> None:
    records = sweep()[:3]
    for record in records:
        record["classes"] = {"names": [str(i) for i in range(100)], "confusion": np.eye(100, dtype=int).tolist()}
    text = page(records)
    assert '<img class="pixels" src="data:image/png;base64,' in text
    assert len(text) < 100_000


def test_commonest_errors() -> None:
    found = commonest_errors(np.array(CONFUSION), ["a", "b", "c"])
    assert found[0] == {"label": "b", "predicted": "a", "samples": 5, "share": 0.25}
    assert [each["samples"] for each in found] == [5, 2, 1]


def test_a_curve_is_over_steps_that_all_seeds_have() -> None:
    curve = mean_curve([history(0.2, 0.4, 0.6), history(0.4, 0.5)])
    assert [point[0] for point in curve] == [4, 8]
    assert np.allclose([point[1:] for point in curve], [(30, 20, 40), (45, 40, 50)])
    assert mean_curve([history(0.5)]) == [(4, 50.0, None, None)]
    assert len(mean_curve([history(*[0.5] * 500)])) == 60
    assert mean_curve([]) == mean_curve([[{"epoch": 1, "step": 4}]]) == []


@pytest.mark.parametrize(
    "records",
    [
        [failed("broken")],
        [done(0.9)],
        [done(0.9, scratch=None), done(0.0, scratch=None, seed=1)],
        [done(1.0, 1.0, seed=seed, target_labels_per_class=labels) for seed in (0, 1) for labels in ("null", 5)],
        [done(0.9, target_fraction=fraction) | {"history": []} for fraction in (0.1, 0.5)],
        [done(0.9, seed=seed, optimizer_lr=10.0**-seed, strategy=f"s{seed}") for seed in range(40)],
    ],
)
def test_whatever_the_records_hold_there_is_a_page(records: list[dict[str, Any]]) -> None:
    text = page(records)
    assert text.endswith("</html>")
    assert "nan" not in re.findall(r'(?:d|x|y|cx|cy)="([^"]*)"', text)
    assert not re.search(r'="[^"]*\b(nan|inf|None)\b', text)


def test_the_page_from_folders_is_that_from_memory(tmp_path: Path) -> None:
    """Records are trimmed when they are read, and read again where a plot needs more."""
    for number, record in enumerate(sweep()):
        write_record(tmp_path / "runs" / str(number), record)
    report([tmp_path / "runs"], make_console(), {"html": tmp_path / "out" / "report.html"})

    def stable(text: str) -> str:
        return re.sub(r"on \d{4}-\d\d-\d\d \d\d:\d\d", "", text)

    assert stable((tmp_path / "out" / "report.html").read_text()) == stable(page(sweep(), tmp_path / "runs"))


def test_a_record_file_of_any_name_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path, done(0.914))
    (tmp_path / "record.json").rename(tmp_path / "kept.json")
    report([tmp_path / "kept.json"], make_console(), {"html": tmp_path / "report.html"})
    assert "91.4 %" in capsys.readouterr().out
    assert "Learning curve" in (tmp_path / "report.html").read_text()


def test_ten_thousand_records_give_a_page_of_a_few_megabytes() -> None:
    base = done(0.9) | {"history": [], "classes": {"names": ["a", "b"], "confusion": [[3, 1], [0, 4]]}}
    records = [
        base
        | {"config": base["config"] | {"seed": seed, "optimizer": {"lr": lr}}, "seed": seed}
        | {"metrics": {"target/test/accuracy": 0.5 + (seed + lr) % 7 / 20}}
        for lr in range(2000)
        for seed in range(5)
    ]
    text = page(records)
    assert text.count("<tr>") > 12_000
    assert len(text) < 8_000_000
    assert text.count("<svg") < 100


def test_what_is_kept_of_a_record_is_small() -> None:
    keep = Trimmed()
    first, second = (keep(done(0.9, seed=seed) | {"classes": {}}) for seed in (0, 1))
    assert not any(name in kept for kept in (first, first["baselines"]["scratch"]) for name in UNUSED)
    assert first["config"]["target"] is second["config"]["target"]
