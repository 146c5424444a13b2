"""Weights & Biases, MLflow and CSV on a tiny run: files, settings and final metrics, and no connection to anywhere."""

import csv
import importlib.util
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import write_arrays
from hydra.core.config_loader import ConfigLoader
from processes import environment

from graft.build.validation import validate
from graft.cli.compose import compose
from graft.records.record import load_record

RUN = (
    *("source=none", "target=arrays", "target.path=data.npz", "target.val_fraction=0.2", "strategy=scratch"),
    *("trainer=cpu", "trainer.max_epochs=2", "analysis.cka_images=0", "seed=3"),
)


@pytest.fixture
def nowhere() -> Iterator[socket.socket]:
    """A proxy that nothing should ask."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def run(folder: Path, nowhere: socket.socket, *words: str) -> dict[str, float]:
    """The metrics of a run in the folder, in a process that could reach the network through the proxy alone."""
    write_arrays(folder / "data.npz")
    proxy = f"http://127.0.0.1:{nowhere.getsockname()[1]}"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), proxy)
    command = [sys.executable, "-m", "graft", *RUN, *words]
    done = subprocess.run(command, cwd=folder, env=environment() | proxies, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert asked(nowhere) is None
    metrics: dict[str, float] = load_record(folder / "outputs" / "latest")["metrics"]
    return metrics


def test_each_writes_settings_and_final_metrics_and_asks_nobody(tmp_path: Path, nowhere: socket.socket) -> None:
    metrics = run(tmp_path, nowhere, "logger=[tensorboard,csv,wandb,mlflow]")
    folder = (tmp_path / "outputs" / "latest").resolve()
    assert next(folder.glob("tensorboard/transfer/*tfevents*"))
    with (folder / "csv" / "transfer" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["train/loss"]]) == 2
    [final] = [row["target/test/accuracy"] for row in rows if row["target/test/accuracy"]]
    assert float(final) == pytest.approx(metrics["target/test/accuracy"])
    assert_mlflow(folder, metrics)
    assert_wandb(folder, metrics)


def asked(listener: socket.socket) -> bytes | None:
    """How the first who connected began; None where nobody did."""
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return None
    with connection:
        return connection.recv(200)


def assert_mlflow(folder: Path, metrics: dict[str, float]) -> None:
    import sqlite3

    with sqlite3.connect(folder / "mlflow" / "mlflow.db") as base:
        runs = dict(base.execute("SELECT name, status FROM runs"))
        params = dict(base.execute("SELECT key, value FROM params"))
        found = dict(base.execute("SELECT key, value FROM latest_metrics"))
        epochs = list(base.execute("SELECT value FROM metrics WHERE key = 'train/loss'"))
    assert runs == {f"{folder.name} transfer": "FINISHED"}
    assert (params["strategy"], params["seed"], params["target"]) == ("scratch", "3", "data")
    assert found["target/test/accuracy"] == pytest.approx(metrics["target/test/accuracy"])
    assert len(epochs) == 2


def leveldb_records(content: bytes, start: int = 7, block: int = 32768) -> Iterator[bytes]:
    """Records of LevelDB's log format after a header: checksum, length, kind (whole, first, middle, last), data."""
    at, parts = start, []
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


def assert_wandb(folder: Path, metrics: dict[str, float]) -> None:
    from wandb.proto import wandb_internal_pb2

    [path] = folder.glob("wandb/offline-run-*/run-*.wandb")
    config, final, epochs = {}, {}, 0
    for data in leveldb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        config |= {item.key: item.value_json for item in record.config.update}
        items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        final |= items
        epochs += "train/loss" in items
    assert (config["strategy"], config["seed"]) == ('"scratch"', "3")
    assert float(final["target/test/accuracy"]) == pytest.approx(metrics["target/test/accuracy"])
    assert epochs == 2


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_said_before_anything_is_trained(
    name: str, loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("graft.callbacks.loggers.find_spec", lambda package: None if package == name else find(package))
    said = f"logger={name}: {name} is not installed; pip install 'graft[{name}]' brings it"
    assert validate(compose(loader, [f"logger=[tensorboard,{name}]"])) == [said]
