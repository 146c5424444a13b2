"""A run that looks at both domains: what it leaves, and that looking changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import tiny_domain, write_arrays
from hydra.core.config_loader import ConfigLoader
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_plugin import _read_tensor_tsv_file

from graft.adaptation.ramps import Ramp
from graft.build.assembly import build_experiment
from graft.build.validation import validate
from graft.callbacks.domains import some_of_source, some_of_target
from graft.cli.compose import compose
from graft.data.domain import Domain
from graft.pipeline import run

WATCHED = ("analysis.feature_images=40", "analysis.plot_every=1", "logger=tensorboard")
TINY = (
    "trainer=cpu",
    "logger=none",
    "trainer.max_epochs=3",
    "pretrain.max_epochs=4",
    "pretrain.optimizer.lr=0.003",
    "adaptation=[dann,mcc]",
    "source=arrays",
    "source.batch_size=12",
    "target=arrays",
    "target.name=target",
    "target.labels_per_class=null",
    "target.val_fraction=0",
)
Runs = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("domains")
    write_arrays(folder / "source.npz", seed=1, num_per_class=12)
    write_arrays(folder / "target.npz", seed=1, num_per_class=14)  # the same patterns under other noise
    arrays = dict(np.load(folder / "target.npz"))
    relabelled = {name: (arrays[name] + 1) % 3 for name in ("y_train", "y_test")}
    np.savez(folder / "relabelled.npz", **arrays | relabelled)
    return folder


@pytest.fixture(scope="module")
def run_of(folder: Path, loader: ConfigLoader) -> Runs:
    """The record of a run that adapts to tiny arrays, with its folder."""

    def go(name: str, *overrides: str, target: str = "target") -> dict[str, Any]:
        words = [*TINY, f"source.path={folder / 'source.npz'}", f"target.path={folder / target}.npz"]
        config = compose(loader, [*words, f"paths.outputs={folder / 'outputs'}", *overrides])
        assert validate(config) == []
        (folder / name).mkdir()
        run(build_experiment(config), folder / name)
        record: dict[str, Any] = json.loads((folder / name / "record.json").read_text())
        return record | {"folder": folder / name}

    return go


@pytest.fixture(scope="module")
def watched(run_of: Runs) -> dict[str, Any]:
    return run_of("watched", *WATCHED)


def weights(record: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(record["folder"] / "weights" / "network.safetensors")


def without_times(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in record["history"]]


def test_looking_changes_nothing(run_of: Runs, watched: dict[str, Any]) -> None:
    unwatched = run_of("unwatched", "analysis.feature_images=0")
    assert unwatched["domains"] == {}
    names = {path.name for path in (unwatched["folder"] / "pictures").iterdir()}
    assert names == {"confusion.png", "confused.png"}
    assert without_times(unwatched) == without_times(watched)
    found = weights(watched)
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights(unwatched).items())
    assert unwatched["id"] == watched["id"]


def test_labels_of_the_target_are_in_no_picture_of_features(run_of: Runs, watched: dict[str, Any]) -> None:
    relabelled = run_of("relabelled", *WATCHED, target="relabelled")
    assert relabelled["classes"]["confusion"] != watched["classes"]["confusion"]
    for name in ("start", "epoch_001", "epoch_002", "end"):
        one, other = (record["folder"] / "pictures" / f"features_{name}.png" for record in (relabelled, watched))
        assert one.read_bytes() == other.read_bytes(), name
    assert relabelled["domains"]["a_distance"] == watched["domains"]["a_distance"]


def test_the_record_and_the_pictures(watched: dict[str, Any]) -> None:
    domains = watched["domains"]
    assert domains["images"] == {"source": 20, "target": 20}
    assert domains["a_distance"].keys() == domains["source_accuracy"].keys() == {"start", "end"}
    assert all(-2 <= value <= 2 for value in domains["a_distance"].values())
    assert domains["seconds"] > 0
    names = {path.name for path in (watched["folder"] / "pictures").iterdir()}
    features = {f"features_{name}.png" for name in ("start", "epoch_001", "epoch_002", "end")}
    assert names == {"confusion.png", "confused.png"} | features
    for name in names:
        with Image.open(watched["folder"] / "pictures" / name) as picture:
            assert len(picture.getcolors(maxcolors=100_000) or []) > 10, name


def test_the_most_confused_pairs_are_the_largest_errors(watched: dict[str, Any]) -> None:
    classes = watched["classes"]
    counts = np.array(classes["confusion"])
    np.fill_diagonal(counts, 0)
    found = classes["most_confused"]
    assert [row["samples"] for row in found] == sorted(counts[counts > 0].tolist(), reverse=True)[:5]
    for row in found:
        place = classes["names"].index(row["label"]), classes["names"].index(row["predicted"])
        assert counts[place] == row["samples"]
        assert row["share"] == row["samples"] / 10


def test_the_weight_of_every_method_and_the_accuracy_of_the_discriminator(watched: dict[str, Any]) -> None:
    for row in watched["history"]:
        assert row["lambda/dann"] == pytest.approx(Ramp(1.0, 10.0)(row["epoch"] / 3))
        assert row["lambda/mcc"] == 1.0
        assert 0 <= row["train/dann/domain_accuracy"] <= 1
        assert {"train/cross_entropy", "train/dann", "train/mcc"} <= row.keys()
        total = row["train/cross_entropy"] + row["train/dann"] + row["train/mcc"]
        assert row["train/loss"] == pytest.approx(total, rel=1e-5)


def test_tensorboard_shows_it_all(watched: dict[str, Any]) -> None:
    logs = watched["folder"] / "tensorboard" / "transfer"
    events = EventAccumulator(str(logs), size_guidance={"images": 0})
    events.Reload()
    steps = [row["step"] for row in watched["history"]]
    distances = events.Scalars("a_distance")
    assert [event.step for event in distances] == [0, *steps]
    assert distances[-1].value == pytest.approx(watched["domains"]["a_distance"]["end"])
    assert [event.step for event in events.Images("features")] == [0, *steps]
    assert [event.step for event in events.Scalars("train/dann/domain_accuracy")] == steps
    assert [event.step for event in events.Scalars("lambda/dann")] == steps
    assert "target/test/confusion" in events.Tags()["images"]


def test_the_projector_finds_features_and_their_samples(watched: dict[str, Any]) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins.projector import ProjectorConfig

    logs = watched["folder"] / "tensorboard" / "transfer"
    config = text_format.Parse((logs / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [entry.tensor_name for entry in config.embeddings] == ["features, start", "features, end"]
    for entry in config.embeddings:
        assert _read_tensor_tsv_file(str(logs / entry.tensor_path)).shape == (40, 84)
        header, *rows = [line.split("\t") for line in (logs / entry.metadata_path).read_text().splitlines()]
        assert header == ["domain", "class of the source", "predicted"]
        assert len(rows) == 40
        assert {row[1] for row in rows[20:]} == {"not looked at"}
        assert {row[1] for row in rows[:20]} <= set(watched["classes"]["names"])
        with Image.open(logs / entry.sprite.image_path) as sprite:
            assert sprite.size == (7 * 32, 7 * 32)


def test_a_run_that_does_not_adapt_can_be_looked_at(run_of: Runs) -> None:
    record = run_of("plain", "adaptation=none", "analysis.feature_images=12", "baselines=[]")
    assert record["domains"]["source_accuracy"] == {"start": None, "end": None}
    assert (record["folder"] / "pictures" / "features_end.png").exists()


def domains_of(domain: Domain, num: int) -> SimpleNamespace:
    (images, labels), target = some_of_source(domain, num), some_of_target(domain, num)
    return SimpleNamespace(images=images, labels=labels, target=target)


def test_images_are_spread_over_classes_and_the_same_each_time(tmp_path: Path) -> None:
    domain = tiny_domain(tmp_path)
    few, again, all_of_them = domains_of(domain, 9), domains_of(domain, 9), domains_of(domain, 1000)
    assert torch.equal(few.images, again.images)
    assert torch.equal(few.target, again.target)
    assert torch.bincount(few.labels).tolist() == [3, 3, 3]
    assert len(all_of_them.images) == domain.sizes["val"] + domain.sizes["train"]
    assert len(all_of_them.target) == len(domain.pool)
    assert len(few.images) == len(few.target) == 9


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("analysis.feature_images=3", "expected 0 (none), or 8 or more"),
        ("analysis.feature_images=40 source=none backbone.weights=DEFAULT backbone=resnet18", "there is source=none"),
        ("analysis.plot_every=-1", "expected 0"),
        ("analysis.plot_every=1", "no features are looked at"),
        ("analysis.plot_every=1 analysis.feature_images=0 adaptation=mcc", "no features are looked at"),
        ("analysis.projection=umap", "expected 'pca' or 'tsne'"),
    ],
)
def test_settings_that_cannot_be_are_refused(words: str, reason: str, loader: ConfigLoader) -> None:
    errors = validate(compose(loader, ["target.labels_per_class=null", *words.split()]))
    assert any(error.startswith("analysis.") and reason in error for error in errors), errors
