"""What follows training, in whole runs on tiny data."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import write_arrays
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from graft.build.assembly import build_experiment
from graft.build.validation import validate
from graft.cli.compose import compose, hydra_application
from graft.errors import UserError
from graft.pipeline import run

TINY = (
    "trainer=cpu",
    "logger=none",
    "trainer.max_epochs=6",
    "pretrain.max_epochs=3",
    "optimizer.lr=0.003",
    "pretrain.optimizer.lr=0.003",
    "target=arrays",
    "source=arrays",
    "target.val_fraction=0.2",
    "target.batch_size=16",
    "baselines=[]",
)
ALL = ("after=[wise_ft,temperature,tta]", "target.augmentation.crop_padding=2", "after.wise_ft.num_alphas=3")
STATISTICS = ("running_mean", "running_var")
Compose = Callable[..., dict[str, Any]]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Compose]:
    source, target = write_arrays(tmp_path / "source.npz", seed=1, num_classes=4), tmp_path / "target.npz"
    write_arrays(target, seed=2)
    paths = (f"source.path={source}", f"target.path={target}", f"paths.outputs={tmp_path / 'outputs'}")
    with hydra_application() as hydra:
        yield lambda *overrides: compose(hydra.config_loader, [*TINY, *paths, *overrides])


@pytest.fixture
def record_of(config: Compose, tmp_path: Path) -> Run:
    folders = iter(tmp_path / f"run{i}" for i in range(10))

    def go(*overrides: str) -> dict[str, Any]:
        composed = config(*overrides)
        assert validate(composed) == []
        folder = next(folders)
        folder.mkdir()
        run(build_experiment(composed), folder)
        record: dict[str, Any] = json.loads((folder / "record.json").read_text())
        return record | {"folder": folder}

    return go


def test_all_methods_leave_the_run_as_it_is_without_them(record_of: Run) -> None:
    plain, record = record_of(*ALL[1:2]), record_of(*ALL)
    assert plain["after"] == {}
    assert list(record["after"]) == ["wise_ft", "temperature", "tta"]
    assert record["metrics"] == plain["metrics"]
    before, after = (load_file(r["folder"] / "weights" / "network.safetensors") for r in (plain, record))
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    for result in record["after"].values():
        assert {name for name in record["metrics"] if name.startswith("target/")} <= result["metrics"].keys()


@pytest.mark.parametrize("backbone", ["cnn", "resnet20"])
@pytest.mark.parametrize("strategy", ["fine_tune", "gradual_unfreeze"])
def test_the_curve_ends_in_the_run_and_begins_in_the_source(record_of: Run, backbone: str, strategy: str) -> None:
    how = (f"backbone={backbone}", f"strategy={strategy}")
    record = record_of("after=wise_ft", "after.wise_ft.num_alphas=3", *how)
    start, middle, end = record["after"]["wise_ft"]["curve"]
    assert [row["alpha"] for row in (start, middle, end)] == [0.0, 0.5, 1.0]
    metrics = record["metrics"]
    assert {name: end[name] for name in metrics if name.startswith("target/")} == {
        name: value for name, value in metrics.items() if name.startswith("target/")
    }
    assert end["source/test/accuracy"] == metrics["source/test/accuracy_after_transfer"]
    assert start["source/test/accuracy"] == metrics["source/test/accuracy"]
    if strategy == "fine_tune":  # whose start is a linear probe
        probe = record_of("strategy=linear_probe", f"backbone={backbone}")
        assert start["target/test/accuracy"] == probe["metrics"]["target/test/accuracy"]
        assert start["target/test/loss"] == pytest.approx(probe["metrics"]["target/test/loss"], rel=1e-5)


@pytest.mark.parametrize("strategy", ["fine_tune", "lp_ft"])
def test_statistics_between_the_ends_are_estimated_anew_where_they_moved(record_of: Run, strategy: str) -> None:
    how = ("backbone=resnet20", f"strategy={strategy}", "after.wise_ft.num_alphas=2", "after.wise_ft.alpha=0.5")
    record = record_of("after=wise_ft", *how)
    assert len(record["after"]["wise_ft"]["curve"]) == 3
    end, halfway = (load_file(record["folder"] / "weights" / f"{name}.safetensors") for name in ("network", "wise_ft"))
    checkpoint = torch.load(record["folder"] / "transfer" / "start.ckpt", weights_only=True)["state"]
    for name, tensor in halfway.items():
        mean = (checkpoint[name].double() + end[name].double()) / 2
        assert tensor.dtype == end[name].dtype
        if name.endswith("num_batches_tracked"):
            assert tensor == end[name]
        elif name.startswith("backbone.") and not name.endswith(STATISTICS):
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-8)
        elif name.startswith("backbone."):
            assert torch.equal(tensor, end[name]) == (strategy == "lp_ft")
            assert torch.equal(tensor.double(), mean) == (strategy == "lp_ft")


@pytest.mark.parametrize("head", ["ridge", "mlp", "cosine"])
def test_every_kind_of_head_has_a_start(record_of: Run, head: str) -> None:
    curve = record_of("after=wise_ft", "after.wise_ft.num_alphas=3", f"head={head}")["after"]["wise_ft"]["curve"]
    assert all(row["target/test/accuracy"] > 1 / 3 for row in curve)


def test_nothing_is_chosen_by_test_labels(record_of: Run, tmp_path: Path) -> None:
    first = record_of(*ALL)
    target = dict(np.load(tmp_path / "target.npz"))
    target["y_test"] = np.random.default_rng(0).permutation(target["y_test"])
    np.savez(tmp_path / "target.npz", **target)
    second = record_of(*ALL)
    for name, key in (("wise_ft", "alpha"), ("temperature", "temperature")):
        assert first["after"][name][key] == second["after"][name][key]
    for result, other in zip(first["after"].values(), second["after"].values(), strict=True):
        assert result["metrics"]["target/test/loss"] != other["metrics"]["target/test/loss"]


def test_temperature_keeps_accuracies_and_lowers_the_loss_on_val(record_of: Run) -> None:
    record = record_of("after=temperature")
    result, metrics = record["after"]["temperature"]["metrics"], record["metrics"]
    for split in ("val", "test"):
        assert result[f"target/{split}/accuracy"] == metrics[f"target/{split}/accuracy"]
    assert result["target/val/loss"] <= metrics["target/val/loss"]


def test_the_curve_is_in_tensorboard(record_of: Run) -> None:
    record = record_of("after=wise_ft", "after.wise_ft.num_alphas=3", "logger=tensorboard")
    events = EventAccumulator(str(record["folder"] / "tensorboard" / "transfer"))
    events.Reload()
    points = events.Scalars("wise_ft/target/test/accuracy")
    curve = record["after"]["wise_ft"]["curve"]
    assert [(point.step, pytest.approx(point.value)) for point in points] == [
        (round(100 * row["alpha"]), row["target/test/accuracy"]) for row in curve
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("after=wise_ft", "strategy=scratch"), "after.wise_ft: strategy 'scratch' starts from random weights"),
        (("after=wise_ft", "strategy=linear_probe"), "after.wise_ft: strategy 'linear_probe' leaves the backbone as"),
        (("after=wise_ft", "target.val_fraction=0"), "target.val_fraction=0: after.wise_ft needs validation samples"),
        (("after=temperature", "target.val_fraction=0"), "after.temperature needs validation samples"),
        (("after=wise_ft", "after.wise_ft.alpha=1.5"), "after.wise_ft.alpha=1.5; expected a number from 0 to 1"),
        (("after=wise_ft", "after.wise_ft.num_alphas=1"), "after.wise_ft.num_alphas=1; expected 2 or more"),
        (("after=tta",), "after.tta: all views would be the same"),
        (("after=tta", "after.tta.flip=true"), "after.tta.num_views=8: without after.tta.augmentation there is 1 view"),
        (("after=tta", "+after.tta.augmentation.mixup=0.2"), "leave mixup and cutmix out"),
        (("after=tta", "+after.tta.augmentation.flip=true"), "write after.tta.flip=true"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused(config: Compose, overrides: tuple[str, ...], message: str) -> None:
    errors = validate(config(*overrides))
    assert any(message in error for error in errors), errors


def test_a_given_alpha_needs_no_val_split(config: Compose) -> None:
    assert validate(config("after=wise_ft", "after.wise_ft.alpha=0.5", "target.val_fraction=0")) == []


def test_a_val_split_that_comes_out_empty_is_refused_before_training(config: Compose, tmp_path: Path) -> None:
    composed = config("after=temperature", "target.val_fraction=0.001")
    with pytest.raises(UserError, match=r"after\.temperature: needs validation samples, and target .* has none"):
        run(build_experiment(composed), tmp_path)


@pytest.mark.parametrize("words", ["[]", "none"])
def test_none_and_several_may_be_chosen(config: Compose, words: str) -> None:
    assert config(f"after={words}")["after"] == {}
    assert list(config("after=[temperature,wise_ft]")["after"]) == ["temperature", "wise_ft"]
    assert config("callbacks=[]")["callbacks"] == {}


def test_a_misspelt_one_among_several_is_named(config: Compose) -> None:
    with pytest.raises(UserError, match="after=wise_tf: no such after; did you mean 'wise_ft'"):
        config("after=[temperature,wise_tf]")
