"""What is printed: golden texts, at several widths, with and without a terminal."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from records_by_hand import done, failed, in_folders, with_transferred
from rich.console import Console

from graft.reports.console import PLAIN_WIDTH, make_console
from graft.reports.terminal import print_run, print_summary

FOLDER = Path("/runs/[b]/x[/y]")


def shown(width: int = 80, terminal: bool = False) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=width, force_terminal=terminal, highlight=False), text


def lines(text: io.StringIO) -> list[str]:
    return [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]


def printed_run(record: dict[str, Any], width: int = 80) -> list[str]:
    console, text = shown(width)
    print_run(record, FOLDER, console)
    return lines(text)


def printed_summary(*records: dict[str, Any], width: int = 80) -> list[str]:
    console, text = shown(width)
    print_summary(in_folders(*records), console)
    return lines(text)


def test_the_final_table_of_a_run() -> None:
    record = done(0.914, 0.862)
    record["metrics"]["source/test/accuracy_after_transfer"] = 0.853
    assert printed_run(record) == [
        "glyphs → digits, cnn, fine_tune, seed 0",
        "target accuracy     91.4 % on test, last epoch",
        "scratch baseline    86.2 %, same labels, epochs and head",
        "gain                +5.2 points over scratch",
        "baseline's best     reached at epoch 2, step 8, 1.0 s (baseline: 3, 12, 1.5 s)",
        "source accuracy     90.0 % before transfer, 85.3 % after",
        "seconds             6.0 pretraining, 1.5 transfer, 1.2 baseline",
        "parameters trained  61,326 of 61,326",
        "/runs/[b]/x[/y]",
    ]


def test_the_final_table_says_what_was_transferred() -> None:
    record = with_transferred(done(0.914, 0.862))
    text = printed_run(record, width=120)
    expected = [
        "baseline's best     reached at epoch 2, step 8, 1.0 s (baseline: 3, 12, 1.5 s: 1.5x as soon)",
        "accuracy on val     +16.8 points against scratch at the same step, on average",
        "backbone            moved by 10.0 % of its parameters' length",
        "calibration         error 3.1 %, loss 0.400, Brier 0.120 (scratch: error 6.2 %, loss 0.700, Brier 0.240)",
    ]
    assert [line for line in text if line in expected] == expected
    assert text[-5:-1] == [
        "layer group   moved    CKA",
        "stem              0  1.000",
        "stage1       12.5 %  0.988",
        "stage2       <0.1 %",
    ]
    record["transferred"]["groups"]["stem"] |= {"buffers_moved": 0.3, "buffers_moved_relative": 0.25}
    assert printed_run(record)[-5:-3] == [
        "layer group   moved  norm statistics    CKA",
        "stem              0           25.0 %  1.000",
    ]


@pytest.mark.parametrize(
    ("transferred", "expected"),
    [
        ({}, "began from scratch: nothing was transferred"),
        ({"moved": 0.0, "groups": {"stem": {"moved": 0.0, "buffers_moved": 0.0}}}, "is as it was transferred"),
    ],
)
def test_a_backbone_that_did_not_move_needs_no_table(transferred: dict[str, Any], expected: str) -> None:
    text = printed_run(done(0.9) | {"transferred": transferred})
    assert f"backbone            {expected}" in text
    assert not any(line.startswith("layer group") for line in text)


def test_a_backbone_that_diverged_says_so() -> None:
    record = with_transferred(done(0.1), moved=None, moved_relative=None)
    record["transferred"]["groups"]["stage1"] |= {"moved": None, "moved_relative": None, "cka": None}
    text = printed_run(record)
    assert "backbone            moved to values that are not finite numbers" in text
    assert "stage1" in text


def test_negative_transfer_is_warned_of() -> None:
    record = done(0.7, 0.8)
    record["transfer"] |= dict.fromkeys(name for name in record["transfer"] if name.endswith("to_pass_baseline"))
    text = printed_run(record)
    assert "gain                -10.0 points over scratch" in text
    assert "baseline's best     82.0 % on val, not reached" in text
    assert any(line.startswith("Negative transfer: fine_tune ended below its scratch baseline") for line in text)


def test_without_validation_passing_is_not_compared() -> None:
    record = done(0.9)
    record["history"] = [{"epoch": 1, "step": 4, "seconds": 0.5}]
    assert "baseline's best     not compared: no validation accuracy by epoch" in printed_run(record)


def test_a_run_without_baselines_or_source() -> None:
    record = done(0.9, scratch=None) | {"weights": "/w/mobilenet.safetensors"}
    del record["metrics"]["source/test/accuracy"]
    text = printed_run(record)
    assert text[0] == "/w/mobilenet.safetensors → digits, cnn, fine_tune, seed 0"
    assert not any(line.startswith(("gain", "scratch", "source", "baseline")) for line in text)
    assert "seconds             6.0 pretraining, 1.5 transfer" in text


def test_a_diverged_run_says_so() -> None:
    record = done(0.1)
    record["metrics"]["target/test/loss"] = None
    assert any(line.startswith("Diverged: ") for line in printed_run(record))


def test_a_loss_without_a_hundredth_of_a_point_is_no_minus_zero() -> None:
    assert "gain                +0.0 points over scratch" in printed_run(done(0.8 - 1e-6, 0.8))


SWEEP = [
    done(0.80 + 0.02 * seed, strategy=name, seed=seed) for name in ("scratch", "gradual_unfreeze") for seed in (0, 1)
]


def test_the_summary_of_a_sweep() -> None:
    assert printed_summary(*SWEEP) == [
        "strategy          n    accuracy    baseline        gain    seconds  trained",
        "scratch           2  81.0 ± 1.4  80.0 ± 0.0  +1.0 ± 1.4  2.0 ± 0.7   61,326",
        "gradual_unfreeze  2  81.0 ± 1.4  80.0 ± 0.0  +1.0 ± 1.4  2.0 ± 0.7   61,326",
        "mean ± sample standard deviation over seeds; accuracies in %, gain in points,",
        "seconds of fitting on the target",
    ]


def test_a_failed_job_is_named_below_the_table() -> None:
    text = printed_summary(*SWEEP, failed("no [bold]such[/bold] file [Errno 2] [/x]", strategy="lp_ft", seed=7))
    assert text[-1] == "failed: strategy=lp_ft seed=7: no [bold]such[/bold] file [Errno 2] [/x] (/sweep/4)"


def test_only_failures_print_no_table() -> None:
    assert printed_summary(failed("broken")) == ["failed: seed=0: broken (/sweep/0)"]


@pytest.mark.parametrize("width", [60, 70, 80, 100, 120, 200])
def test_figures_are_whole_or_left_out_and_said_to_be(width: int) -> None:
    labels = (1, 5)
    records = [
        done(0.9, strategy=name, target_labels_per_class=n, optimizer_lr=n / 1000, seed=seed)
        for name in ("scratch", "gradual_unfreeze")
        for n in labels
        for seed in (0, 1)
    ]
    text = printed_summary(*records, width=width)
    assert "…" not in "".join(text)
    caption = "\n".join(text)
    figures = {"trained": "61,326", "seconds": "2.0 ± 0.7", "baseline": "80.0 ± 0.0", "gain": "+10.0 ± 0.0"}
    for name, figure in figures.items():
        left_out = re.search(rf"no\s+room\s+for[^.]*{name}", caption) is not None
        assert (caption.count(figure) == 4) is not left_out
    assert caption.count("+10.0 ± 0.0") == 4


def test_rows_that_were_kept_apart_can_be_told_apart() -> None:
    records = [done(0.9, seed=0), done(0.8, seed=1)]
    records[1]["fingerprints"]["device"] = "NVIDIA H100"
    text = printed_summary(*records, width=120)
    assert text[0].split()[0] == "device"
    assert text[1].startswith("cpu, 2 threads")
    assert text[2].startswith("NVIDIA H100")


def test_a_terminal_gets_colour_and_a_pipe_plain_text() -> None:
    for terminal in (True, False):
        console, text = shown(terminal=terminal)
        print_run(done(0.7, 0.8), FOLDER, console)
        assert ("\x1b[" in text.getvalue()) is terminal


def test_a_pipe_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make_console(io.StringIO()).width == PLAIN_WIDTH
    monkeypatch.setenv("COLUMNS", "90")
    assert make_console(io.StringIO()).width == 90


def test_what_followed_training_is_compared_with_the_headline_figures() -> None:
    record = done(0.914, 0.862)
    record["metrics"]["target/test/calibration_error"] = 0.05
    metrics = {"target/test/accuracy": 0.921, "target/test/calibration_error": 0.031}
    record["after"] = {
        "wise_ft": {"metrics": metrics, "alpha": 0.4, "curve": [], "seconds": 1.0},
        "own": {"metrics": metrics},
    }
    figures = "92.1 % on test (+0.7 points), calibration error 5.0 % to 3.1 %"
    found = [line for line in printed_run(record, width=120) if line.startswith("after")]
    assert found == [f"after: wise_ft      {figures}; alpha 0.4", f"after: own          {figures}"]


@pytest.mark.parametrize(("end", "text"), [(0.4, "1.85 before, 0.40 after"), (None, "1.85 before, not finite after")])
def test_how_far_apart_the_domains_lay(end: float | None, text: str) -> None:
    record = done(0.914, 0.862) | {"domains": {"a_distance": {"start": 1.851, "end": end}}}
    [line] = [line for line in printed_run(record, width=120) if line.startswith("A-distance")]
    assert line == f"A-distance          {text} (2: domains are told apart by their features; 0: never)"
    assert not any(line.startswith("A-distance") for line in printed_run(done(0.914) | {"domains": {}}))
