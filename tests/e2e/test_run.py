"""One command, start to end: what is printed, what is left behind, what a second run finds in the store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import SMALL, Graft, environment
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def newest_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "outputs" / "latest" / "record.json").read_text())
    return record


def test_the_default_run_leaves_a_whole_record(graft: Graft, tmp_path: Path) -> None:
    done = graft(*SMALL)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    record = newest_record(tmp_path)
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
    assert "gain" in done.stdout
    assert "layer group" in done.stdout
    assert (tmp_path / "outputs" / "latest").resolve().parent.parent == (tmp_path / "outputs").resolve()


def test_a_scratch_run_says_that_nothing_was_transferred(graft: Graft, tmp_path: Path) -> None:
    done = graft(*SMALL, "strategy=scratch")
    assert done.returncode == 0, done.stderr
    assert newest_record(tmp_path)["transferred"] == {}
    assert "began from scratch: nothing was transferred" in done.stdout
    assert "layer group" not in done.stdout


def test_tensorboard_shows_curves_pictures_and_real_metrics(graft: Graft, tmp_path: Path) -> None:
    assert graft(*SMALL, "strategy=lp_ft").returncode == 0
    record = newest_record(tmp_path)
    events = EventAccumulator(str(tmp_path / "outputs" / "latest" / "tensorboard" / "transfer"))
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


def test_a_second_run_takes_pretraining_and_baseline_from_the_store(graft: Graft, tmp_path: Path) -> None:
    assert graft(*SMALL).returncode == 0
    first = newest_record(tmp_path)
    again = graft(*SMALL, "strategy=linear_probe")
    assert again.returncode == 0, again.stderr
    second = newest_record(tmp_path)
    assert second["id"] != first["id"]
    assert second["fingerprints"]["weights"] == first["fingerprints"]["weights"]
    assert second["baselines"] == first["baselines"]
    stored = list((tmp_path / "outputs" / "store" / "backbone").glob("*/*/manifest.json"))
    assert len(stored) == 1


def test_a_sweep_shares_pretraining_and_leaves_a_table(graft: Graft, tmp_path: Path) -> None:
    done = graft(*SMALL, "-m", "strategy=scratch,fine_tune", "seed=0,1")
    assert done.returncode == 0, done.stderr
    [sweep] = {path.parent.parent for path in (tmp_path / "outputs").glob("*/*/*/record.json")}
    assert len(list(sweep.glob("*/record.json"))) == 4
    rows = (sweep / "results.csv").read_text().splitlines()
    assert len(rows) == 5
    assert "±" in done.stdout
    stored = list((tmp_path / "outputs" / "store" / "backbone").glob("*/*/manifest.json"))
    assert len(stored) == 2


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
