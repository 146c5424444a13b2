"""`graft soup` on a sweep over tiny images, from the command line to its files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import write_arrays
from safetensors.torch import load_file

from graft.cli.main import main
from graft.records.record import load_record, write_record

TINY = ["trainer=cpu", "logger=none", "pretrain.max_epochs=1", "trainer.max_epochs=3", "baselines=[]"]
DATA = ["target=arrays", "target.path=target.npz", "target.val_fraction=0.2", "source=arrays", "source.path=one.npz"]


@pytest.fixture
def images(empty_folder: Path) -> Path:
    write_arrays(empty_folder / "target.npz", seed=2)
    write_arrays(empty_folder / "one.npz", seed=1, num_classes=4)
    return empty_folder


def soups(folder: Path) -> list[dict[str, Path]]:
    """Kind -> folder of each pot, in order."""
    return [{kind.name: kind for kind in pot.iterdir()} for pot in sorted(folder.glob("outputs/soup/*"))]


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights" / "network.safetensors")


def test_a_sweep_becomes_soups(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", *TINY, *DATA, "optimizer.lr=0.001,0.003,0.01"]) == 0
    capsys.readouterr()
    assert main(["soup", "outputs/latest"]) == 0
    out = capsys.readouterr().out
    rates = [line.split()[0] for line in out.splitlines() if line.startswith("lr=")]
    assert rates == ["lr=0.001", "lr=0.003", "lr=0.01"]
    assert "uniform soup of 3" in out
    [kinds] = soups(images)
    runs = [(images / "outputs" / "latest" / str(i)).resolve() for i in range(3)]
    for kind, folder in kinds.items():
        record = load_record(folder)
        assert record["status"] == "done"
        assert record["config"]["soup"] == kind
        assert "lr" not in record["config"]["optimizer"]
        used = [Path(run["folder"]) for run in record["soup"]["runs"] if run["in_soup"]]
        assert used == runs if kind == "uniform" else set(used) <= set(runs)
        for name, tensor in state(folder).items():
            mean = np.mean([state(run)[name].numpy().astype(np.float64) for run in used], axis=0)
            np.testing.assert_array_equal(tensor.numpy(), mean.astype(np.float32))
        val = [load_record(run)["metrics"]["target/val/accuracy"] for run in runs]
        if kind == "greedy":
            assert record["metrics"]["target/val/accuracy"] >= max(val)
    assert main(["report", "outputs"]) == 0
    report = capsys.readouterr().out
    assert all(kind in report for kind in ("soup", "uniform", "greedy"))
    np.savez("new.npz", x=np.load("target.npz")["x_test"])
    assert main(["predict", str(kinds["greedy"]), "new.npz"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 31
    words = ["source=none", f"backbone.weights={kinds['uniform']}", "strategy=linear_probe"]
    assert main([*TINY, *DATA[:3], *words]) == 0


def test_each_start_has_soups_of_its_own_with_statistics_of_their_own(images: Path) -> None:
    assert main(["-m", *TINY, *DATA, "backbone=resnet20", "optimizer.lr=0.001,0.003", "seed=0,1"]) == 0
    assert main(["soup", "outputs/latest"]) == 0
    assert len(soups(images)) == 2
    for kinds in soups(images):
        record = load_record(kinds["uniform"])
        each = [state(Path(run["folder"])) for run in record["soup"]["runs"]]
        assert len(each) == 2
        averaged = state(kinds["uniform"])
        for name, tensor in averaged.items():
            mean = torch.stack([run[name].double() for run in each]).mean(0)
            is_mean = torch.allclose(tensor.double(), mean, rtol=1e-6, atol=1e-8)
            assert is_mean != name.endswith(("running_mean", "running_var")), name


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["soup", *words]) == 1
    assert not list(Path("outputs/soup").glob("*/*"))
    return capsys.readouterr().err


def test_runs_that_do_not_go_together_are_refused(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", *TINY, *DATA, "head=linear,mlp"]) == 0
    error = refused(["outputs/latest"], capsys)
    assert "head: differs between the runs: linear (" in error
    assert "), mlp (" in error
    latest = (images / "outputs" / "latest").resolve()
    assert "a soup needs two finished runs or more, here is 1" in refused([f"{latest}/0"], capsys)
    assert main(["-m", *TINY, *DATA, "target.labels_per_class=3,5"]) == 0
    assert "target: differs between the runs: target " in refused(["outputs/latest"], capsys)
    assert main(["-m", *TINY, *DATA, "seed=0,1"]) == 0
    assert "no other run starts from its weights (" in refused(["outputs/latest"], capsys)
    assert main(["-m", *TINY, *DATA, "strategy=scratch", "optimizer.lr=0.001,0.003"]) == 0
    assert "started from random weights" in refused(["outputs/latest"], capsys)


def test_other_data_and_no_val_split_are_refused(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", *TINY, *DATA, "optimizer.lr=0.001,0.003"]) == 0
    first = (images / "outputs" / "latest").resolve()
    without_val = [word.replace("val_fraction=0.2", "val_fraction=0") for word in DATA]
    assert main(["-m", *TINY, *without_val, "optimizer.lr=0.001,0.003"]) == 0
    assert "0: has no validation accuracy, by which" in refused(["outputs/latest"], capsys)
    write_arrays(images / "target.npz", seed=5)
    assert "the data of target target are no longer those of the run" in refused([str(first)], capsys)


def test_unfinished_runs_are_named_and_left_out(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", *TINY, *DATA, "optimizer.lr=0.001,0.003,0.01"]) == 0
    folder = images / "outputs" / "latest" / "1"
    write_record(folder, load_record(folder) | {"status": "failed", "error": "out of luck"})
    assert main(["soup", "outputs/latest"]) == 0
    assert "left out, failed: lr=0.003 seed=0: out of luck" in capsys.readouterr().out
    record: dict[str, Any] = load_record(soups(images)[0]["uniform"])
    assert len(record["soup"]["runs"]) == 2
