"""`graft tensorboard`, and what TensorBoard finds of a sweep."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from processes import environment
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer as PluginMultiplexer
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

from graft.cli.commands.tensorboard import log_folder
from graft.cli.main import main
from graft.errors import UserError
from graft.records.record import load_record

FEW = ("source.num_samples=200", "source.num_test_samples=50", "pretrain.max_epochs=1", "trainer.max_epochs=2")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of two jobs, made in a process of its own."""
    folder = tmp_path_factory.mktemp("board")
    words = ["-m", *FEW, "strategy=fine_tune,linear_probe", "seed=1", "optimizer.lr=0.002", "analysis.cka_images=0"]
    done = subprocess.run(
        [sys.executable, "-m", "graft", *words], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return (folder / "outputs" / "latest").resolve()


def test_runs_are_named_by_what_sets_them_apart(sweep: Path) -> None:
    found = EventMultiplexer().AddRunsFromDirectory(str(log_folder(sweep)))
    found.Reload()
    runs = sorted(found.Runs())
    assert runs == [
        "0 strategy=fine_tune/pretrain",
        "0 strategy=fine_tune/scratch",
        "0 strategy=fine_tune/transfer",
        "1 strategy=linear_probe/transfer",
    ]
    assert log_folder(sweep / "1") == sweep / "tensorboard" / "1 strategy=linear_probe"
    for job, run in (("0", runs[2]), ("1", runs[3])):
        record = load_record(sweep / job)
        curve = [event.value for event in found.Scalars(run, "baseline/scratch/val/accuracy")]
        history = record["baselines"]["scratch"]["history"]
        assert curve == pytest.approx([row["val/accuracy"] for row in history])


def test_hparams_hold_settings_and_real_final_metrics(sweep: Path) -> None:
    found = PluginMultiplexer().AddRunsFromDirectory(str(log_folder(sweep)))
    found.Reload()
    sessions = found.PluginRunToTagToContent("hparams")
    assert sorted(sessions) == ["0 strategy=fine_tune/transfer", "1 strategy=linear_probe/transfer"]
    for job, (run, tags) in enumerate(sorted(sessions.items())):
        record = load_record(sweep / str(job))
        content: Any = plugin_data_pb2.HParamsPluginData.FromString(tags["_hparams_/session_start_info"])
        hparams = content.session_start_info.hparams
        assert hparams["strategy"].string_value == record["strategy"]
        assert hparams["lr"].number_value == 0.002
        experiment: Any = plugin_data_pb2.HParamsPluginData.FromString(tags["_hparams_/experiment"]).experiment
        names = {info.name.tag for info in experiment.metric_infos}
        assert {"target/test/accuracy", "gain", "selection/best_val/target/test/accuracy"} <= names
        assert "hp_metric" not in names
        for name in ("target/test/accuracy", "gain"):
            value = record["transfer"]["gain"] if name == "gain" else record["metrics"][name]
            assert scalar(found, run, name) == pytest.approx(value, abs=1e-6)


def scalar(found: Any, run: str, tag: str) -> float:
    [event] = found.Tensors(run, tag)
    return float(tensor_util.make_ndarray(event.tensor_proto))


def test_charts_lay_training_and_validation_and_baselines_over_each_other(sweep: Path) -> None:
    found = PluginMultiplexer().AddRunsFromDirectory(str(log_folder(sweep)))
    found.Reload()
    [event] = found.Tensors("1 strategy=linear_probe/transfer", "custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["accuracy: transfer and baselines"] == ["^val/accuracy$", "^baseline/.+/val/accuracy$"]
    assert charts["loss: training and validation"] == ["^(train|val)/loss$"]


def test_the_projector_has_labels_and_thumbnails_of_a_supervised_run(sweep: Path) -> None:
    folder = log_folder(sweep / "0") / "transfer"
    lines = (folder / "projector" / "test.samples.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["label", "predicted", "right"]
    rows = [line.split("\t") for line in lines[1:]]
    assert len(rows) == 200
    assert all((label == predicted) == (right == "yes") for label, predicted, right in rows)
    assert (folder / "projector" / "thumbnails.png").exists()
    assert "projector/test.features.tsv" in (folder / "projector_config.pbtxt").read_text()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def test_the_command_serves_the_sweep_until_it_is_interrupted(sweep: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "graft", "tensorboard", "outputs/latest", "--port", str(port)]
    listening = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run where Ctrl-C is ignored
    process = subprocess.Popen(
        command, cwd=sweep.parents[2], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, listening)
    try:
        runs = answer(f"http://localhost:{port}/data/runs", process)
        assert "1 strategy=linear_probe/transfer" in runs
    finally:
        os.kill(process.pid, signal.SIGINT)
        printed, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    assert f"graft: TensorBoard on {sweep / 'tensorboard'}; Ctrl-C ends it" in printed
    assert f"http://localhost:{port}/" in printed + complaints


def answer(url: str, process: "subprocess.Popen[str]") -> str:
    """What the server says once it says something of runs."""
    for _ in range(1500):
        assert process.poll() is None, process.communicate()
        try:
            with urllib.request.urlopen(url) as response:
                text = str(response.read().decode())
            if "transfer" in text:
                return text
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"nothing at {url}")


def test_a_folder_without_event_files(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["tensorboard"]) == 1
    assert "outputs/latest: no such folder; run an experiment first" in capsys.readouterr().err
    (empty_folder / "outputs").mkdir()
    assert main(["tensorboard", "ouputs"]) == 1
    assert "did you mean 'outputs'?" in capsys.readouterr().err
    with pytest.raises(UserError, match="no event files of TensorBoard in it"):
        log_folder(empty_folder / "outputs")
