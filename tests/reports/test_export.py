"""CSV and Markdown, and the report that chooses between layouts."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from records_by_hand import done, failed, in_folders

from graft.errors import UserError
from graft.records.record import write_record
from graft.reports.console import make_console
from graft.reports.export import markdown_summary, results_csv, write_results_csv
from graft.reports.notes import CAPTION
from graft.reports.report import report

RECORDS = [done(0.9, seed=0), done(0.8, seed=1, strategy="a|b"), failed("broken, badly", seed=2)]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def sweep(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    records = in_folders(*RECORDS, root=folder)
    for run, record in records:
        write_record(run, record)
    return records


def test_csv_has_a_line_for_every_run_and_reads_back() -> None:
    first, second, third = rows(results_csv(in_folders(*RECORDS)))
    assert [line["run"] for line in (first, second, third)] == ["0", "1", "2"]
    assert first["strategy"] == "fine_tune"
    assert second["strategy"] == "a|b"
    assert float(first["target/test/accuracy"]) == 0.9
    assert float(first["scratch/target/test/accuracy"]) == 0.8
    assert float(first["gain"]) == pytest.approx(0.1)
    assert first["fit_seconds"] == "1.5"
    assert first["code"] == "4" * 64
    assert (third["status"], third["seed"], third["error"]) == ("failed", "2", "broken, badly")
    assert third["target/test/accuracy"] == ""


def test_csv_of_a_sweep_is_left_in_its_folder(tmp_path: Path) -> None:
    path = write_results_csv(tmp_path, sweep(tmp_path))
    assert path == tmp_path / "results.csv"
    assert [line["run"] for line in rows(path.read_text())] == ["0", "1", "2"]


def test_markdown() -> None:
    assert markdown_summary(in_folders(*RECORDS)).splitlines() == [
        "| strategy | n | accuracy | baseline | gain | seconds | trained |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| fine_tune | 1 | 90.0 | 80.0 | +10.0 | 1.5 | 61,326 |",
        "| a\\|b | 1 | 80.0 | 80.0 | +0.0 | 2.5 | 61,326 |",
        "",
        CAPTION,
        "",
        "**failed**: strategy=fine_tune seed=2: broken, badly (/sweep/2)",
    ]


def test_markdown_of_failures_alone_has_no_table() -> None:
    assert "|" not in markdown_summary(in_folders(failed("broken")))


def printed(folder: Path, **files: Path) -> str:
    text = io.StringIO()
    report([folder], make_console(text), files)
    return text.getvalue()


def test_the_report_of_folders(tmp_path: Path) -> None:
    sweep(tmp_path)
    assert "failed: strategy=fine_tune seed=2" in printed(tmp_path)
    assert "parameters trained" in printed(tmp_path / "0")
    assert "failed: seed=2: broken, badly" in printed(tmp_path / "2")


def test_the_report_in_files(tmp_path: Path) -> None:
    records = sweep(tmp_path)
    text = printed(tmp_path, csv=tmp_path / "all.csv", markdown=tmp_path / "[b]" / "all.md")
    assert (tmp_path / "all.csv").read_text() == results_csv(records)
    assert (tmp_path / "[b]" / "all.md").read_text() == markdown_summary(records, {})
    assert f"wrote {tmp_path}/[b]/all.md" in text


def test_what_cannot_be_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no record\.json"):
        report([tmp_path], make_console())


def test_csv_holds_what_followed_training() -> None:
    record = done(0.9)
    record["after"] = {"tta": {"metrics": {"target/test/accuracy": 0.91}, "views": 8}}
    plain, with_tta = rows(results_csv(in_folders(done(0.9), record)))
    assert (plain["after/tta/target/test/accuracy"], with_tta["after/tta/target/test/accuracy"]) == ("", "0.91")
