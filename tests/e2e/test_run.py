"""One command, start to end: what is printed, what is left behind, what a second run finds in the store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from processes import SMALL, Graft, environment, graft_in
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from graft.cli.main import main


def newest_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "outputs" / "latest" / "record.json").read_text())
    return record


class Ended(NamedTuple):
    """A run that a process made."""

    folder: Path  # where the process ran
    printed: subprocess.CompletedProcess[str]
    record: dict[str, Any]


def ended(folder: Path, *arguments: str) -> Ended:
    printed = graft_in(folder)(*arguments)
    assert printed.returncode == 0, printed.stderr
    return Ended(folder, printed, newest_record(folder))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The default run."""
    return ended(tmp_path_factory.mktemp("runs"), *SMALL)


@pytest.fixture(scope="module")
def second(first: Ended) -> Ended:
    """A run after it in the same folder, under a strategy of two phases."""
    return ended(first.folder, *SMALL, "strategy=lp_ft")


def test_the_default_run_leaves_a_whole_record(first: Ended) -> None:
    assert "Traceback" not in first.printed.stderr
    record = first.record
    expected = (
        "schema id status experiment seed config source target backbone strategy objective metrics selection baselines "
        "transfer transferred cost fingerprints environment history"
    )
    assert set(expected.split()) <= record.keys()
    assert record["status"] == "done"
    for key in ("target/test/accuracy", "target/val/accuracy", "source/test/accuracy"):
        assert 0.0 <= record["metrics"][key] <= 1.0
    scratch = record["baselines"]["scratch"]["metrics"]["target/test/accuracy"]
    assert record["transfer"]["gain"] == pytest.approx(record["metrics"]["target/test/accuracy"] - scratch)
    assert {"pretrain_seconds", "fit_seconds", "trainable_parameters"} <= record["cost"].keys()
    assert list(record["transferred"]["groups"]) == ["stem", "stage1", "stage2", "stage3"]
    for row in record["transferred"]["groups"].values():
        assert row["moved"] > 0
        assert 0 <= row["cka"] <= 1
    assert {"forgotten", "moved_relative", "images"} <= record["transferred"].keys()
    assert {"speedup_in_steps", "mean_lead"} <= record["transfer"].keys()
    for metrics in (record["metrics"], record["baselines"]["scratch"]["metrics"]):
        assert {"target/test/loss", "target/test/calibration_error", "target/test/brier_score"} <= metrics.keys()
    assert "gain" in first.printed.stdout
    assert "layer group" in first.printed.stdout
    outputs = (first.folder / "outputs").resolve()
    assert (outputs / "latest").resolve().parent.parent == outputs


def test_a_scratch_run_says_that_nothing_was_transferred(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "strategy=scratch"]) == 0
    assert newest_record(empty_folder)["transferred"] == {}
    printed = capsys.readouterr().out
    assert "began from scratch: nothing was transferred" in printed
    assert "layer group" not in printed


def test_tensorboard_shows_curves_pictures_and_real_metrics(second: Ended) -> None:
    record = second.record
    events = EventAccumulator(str(second.folder / "outputs" / "latest" / "tensorboard" / "transfer"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "val/accuracy", "lr/head", "lr/backbone.stem", "phase"} <= set(tags["scalars"])
    pictures = {"training views", "target/test/confusion", "target/test/reliability", "transferred/layer groups"}
    assert pictures <= set(tags["images"])
    cka = [event.value for event in events.Scalars("transferred/cka")]
    assert cka == pytest.approx([row["cka"] for row in record["transferred"]["groups"].values()])
    assert "hp_metric" not in tags["scalars"]
    final = [event.value for event in events.Scalars("target/test/accuracy")]
    assert final == [pytest.approx(record["metrics"]["target/test/accuracy"])]
    curve = [(event.step, event.value) for event in events.Scalars("val/accuracy")]
    assert curve == [(row["step"], pytest.approx(row["val/accuracy"])) for row in record["history"]]
    markers = [event.step for event in events.Scalars("phase")]
    assert markers == [0, record["history"][0]["step"]]


def test_a_second_run_takes_pretraining_and_baseline_from_the_store(first: Ended, second: Ended) -> None:
    assert second.record["id"] != first.record["id"]
    assert second.record["fingerprints"]["weights"] == first.record["fingerprints"]["weights"]
    assert second.record["baselines"] == first.record["baselines"]
    stored = list((second.folder / "outputs" / "store" / "backbone").glob("*/*/manifest.json"))
    assert len(stored) == 1


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights" / "network.safetensors")


def kill_when(ready: Path, arguments: tuple[str, ...], folder: Path) -> None:
    """Start a run in `folder` and SIGKILL it as soon as a path matching `ready` exists there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "graft", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while not list(folder.glob(str(ready))):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


KILLED = (*SMALL[:3], "trainer.max_epochs=24", "strategy=gradual_unfreeze", "baselines=[]")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "graft", *KILLED]
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


# last.ckpt appears with the first epoch, in the first phase; previous.ckpt with the second; the run ends in the fifth.
@pytest.mark.slow
@pytest.mark.parametrize(("how", "ready"), [("again", "last.ckpt"), ("resume", "previous.ckpt")])
def test_killed_and_resumed_is_bit_equal(graft: Graft, tmp_path: Path, undisturbed: Path, how: str, ready: str) -> None:
    kill_when(Path("outputs/*/*/transfer") / ready, KILLED, tmp_path)
    [run] = [path.parent for path in tmp_path.glob("outputs/*/*/record.json")]
    assert json.loads((run / "record.json").read_text())["status"] == "running"
    done = graft(*KILLED) if how == "again" else graft("resume", str(run))
    assert done.returncode == 0, done.stderr
    assert [path.parent for path in tmp_path.glob("outputs/*/*/record.json")] == [run]
    expected = final_weights(undisturbed / "outputs" / "latest")
    resumed = final_weights(run)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert newest_record(undisturbed)["metrics"] == newest_record(tmp_path)["metrics"]
