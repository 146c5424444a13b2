"""What is said beside the figures."""

from pathlib import Path

from records_by_hand import done, failed, in_folders

from graft.reports.notes import error_message, unfinished, warnings
from graft.reports.tables import group_rows

TRACEBACK = """Traceback (most recent call last):
  File "a.py", line 1, in <module>
    main()
graft.errors.UserError: target.path=/nowhere: no such folder;
expected class folders
"""


def notes(records: list[dict]) -> dict[str, str]:
    return dict(warnings(records, group_rows(records)))


def test_nothing_to_warn_of() -> None:
    assert notes([done(0.9, seed=seed) for seed in range(3)]) == {}


def test_a_differing_fingerprint_is_named_with_its_values() -> None:
    records = [done(0.9, seed=0), done(0.8, seed=1)]
    records[1]["fingerprints"]["preprocessing"] = "abcdef01" * 8
    text = notes(records)["Not averaged"]
    assert "preprocessing" in text
    assert "33333333" in text
    assert "abcdef01" in text
    assert "abcdef01abcdef01" not in text


def test_code_that_differs_between_rows_is_said() -> None:
    records = [done(0.9, strategy="a"), done(0.8, strategy="b")]
    records[1]["fingerprints"]["code"] = "f" * 64
    found = notes(records)
    assert "code" in found["Compare with care"]
    assert "Not averaged" not in found


def test_negative_transfer_names_the_worst_row() -> None:
    text = notes([done(0.7, strategy="a"), done(0.6, strategy="b"), done(0.9, strategy="c")])["Negative transfer"]
    assert text == "below the baseline in 2 of 3 rows, at worst strategy=b (-20.0 points)"


def test_repetitions_are_counted() -> None:
    assert notes([done(0.9), done(0.9), done(0.9)])["Left out"].startswith("2 runs repeat")


def test_a_loss_that_is_no_number_is_said() -> None:
    record = done(0.1, scratch=None)
    record["metrics"]["target/test/loss"] = None
    assert "1 of 1" in notes([record])["Diverged"]


def test_every_run_without_an_end_is_named_with_its_setting_and_reason() -> None:
    running = failed("", strategy="lp_ft", seed=1) | {"status": "running", "error": None}
    records = in_folders(done(0.9), failed(TRACEBACK, strategy="lp_ft"), running, failed("out of memory", seed=3))
    assert unfinished(records) == [
        (
            "failed",
            "strategy=lp_ft seed=0: UserError: target.path=/nowhere: no such folder; expected class folders (/sweep/1)",
        ),
        ("running", "strategy=lp_ft seed=1: still running, or interrupted (/sweep/2)"),
        ("failed", "strategy=fine_tune seed=3: out of memory (/sweep/3)"),
    ]


def test_folders_below_the_present_one_are_shown_from_here() -> None:
    [(_, text)] = unfinished([(Path.cwd() / "outputs" / "7", failed("broken"))])
    assert text.endswith("(outputs/7)")


def test_the_message_of_the_last_of_chained_errors() -> None:
    chained = TRACEBACK + "\nDuring handling of the above exception, another exception occurred:\n\n"
    chained += 'Traceback (most recent call last):\n  File "b.py", line 2\nKeyError: 1\n'
    assert error_message(chained) == "KeyError: 1"
    assert error_message("CUDA out of memory") == "CUDA out of memory"
