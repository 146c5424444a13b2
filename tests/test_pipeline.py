"""The pipeline in this process, on tiny data, over the parts that users combine."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import write_arrays
from PIL import Image
from safetensors.torch import load_file

from graft.adaptation.selection import LABEL_FREE
from graft.build.assembly import build_experiment
from graft.build.validation import validate
from graft.callbacks.checkpoints import read_checkpoint
from graft.callbacks.pictures import THUMBNAIL
from graft.cli.compose import compose, hydra_application
from graft.errors import UserError
from graft.features import Inference, Prefix, features_key
from graft.keys import stage_key
from graft.models.backbones.resnet_cifar import ResNetCifar
from graft.models.weights import save_weights
from graft.outcome import Start
from graft.pipeline import baseline_training, planned_network, run, target_key

Run = Callable[..., dict[str, Any]]
TINY = (
    "trainer=cpu",
    "logger=none",
    "trainer.max_epochs=5",
    "pretrain.max_epochs=5",
    "optimizer.lr=0.003",
    "pretrain.optimizer.lr=0.003",
    "target=arrays",
    "target.val_fraction=0.2",
    "target.batch_size=16",
)


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Compose and validate a configuration over tiny arrays in the test's folder."""
    source, target = tmp_path / "source.npz", tmp_path / "target.npz"
    write_arrays(source, seed=1, num_classes=4)
    write_arrays(target, seed=2)
    paths = (f"target.path={target}", f"paths.outputs={tmp_path / 'outputs'}")

    with hydra_application() as hydra:

        def make(*overrides: str) -> dict[str, Any]:
            chosen = () if "source=none" in overrides else ("source=arrays", f"source.path={source}")
            composed = compose(hydra.config_loader, [*TINY, *paths, *chosen, *overrides])
            assert validate(composed) == []
            return composed

        yield make


@pytest.fixture
def record_of(config: Callable[..., dict[str, Any]], tmp_path: Path) -> Run:
    """Run a configuration in a new folder and return its record, as it was written."""
    folders = iter(tmp_path / f"run{i}" for i in range(10))

    def go(*overrides: str) -> dict[str, Any]:
        folder = next(folders)
        folder.mkdir()
        run(build_experiment(config(*overrides)), folder)
        record: dict[str, Any] = json.loads((folder / "record.json").read_text())
        return record | {"folder": folder}

    return go


@pytest.mark.parametrize("head", ["linear", "mlp", "cosine", "prototype", "ridge"])
def test_every_head_transfers(record_of: Run, head: str) -> None:
    record = record_of(f"head={head}", "baselines=[]")
    assert record["metrics"]["target/test/accuracy"] > 1 / 3


@pytest.mark.parametrize("mapping", ["identity", "affine", "low_rank"])
def test_every_mapping_transfers(record_of: Run, mapping: str) -> None:
    record = record_of(f"mapping={mapping}", "baselines=[]")
    assert record["metrics"]["target/test/accuracy"] > 1 / 3


def test_an_alignment_is_solved_from_both_domains(record_of: Run) -> None:
    record = record_of("mapping=alignment", "strategy=linear_probe", "baselines=[]")
    weight = load_file(record["folder"] / "weights" / "network.safetensors")["mapping.weight"]
    assert not torch.equal(weight, torch.eye(len(weight)))
    assert record["cost"]["trainable_parameters"] == 84 * 3 + 3


def test_a_ridge_probe_is_solved_without_a_step(record_of: Run) -> None:
    record = record_of("head=ridge", "strategy=linear_probe", "baselines=[]")
    assert record["history"] == []
    assert record["cost"]["steps"] == record["cost"]["trainable_parameters"] == 0
    assert record["metrics"]["target/test/accuracy"] > 0.8
    assert record["cost"]["fit_seconds"] > 0


@pytest.mark.parametrize(
    "overrides",
    [
        ("callbacks=ema",),
        ("callbacks=early_stopping",),
        ("optimizer=lbfgs", "optimizer.lr=1.0", "strategy=linear_probe"),
        ("optimizer=sgd", "scheduler=one_cycle"),
        ("objective=least_squares",),
        ("objective.label_smoothing=0.1", "target.augmentation.mixup=0.2", "target.augmentation.cutmix=1.0"),
        ("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1.0"),
        ("precision=bf16-mixed",),
        ("precision=auto", "memory_format=auto"),
        ("memory_format=contiguous", "backbone=resnet20", "strategy=gradual_unfreeze"),
        ("precision=bf16-true", "strategy=gradual_unfreeze"),
        ("precision=64-true", "strategy=linear_probe", "mapping=alignment"),
        ("features.cache_limit_gib=0", "strategy=last_stage"),
        ("features.augmented_views=2", "strategy=last_stage", "target.augmentation.crop_padding=2"),
        ("selection.rule=best_val",),
    ],
    ids=" ".join,
)
def test_options_train(record_of: Run, overrides: tuple[str, ...]) -> None:
    record = record_of(*overrides, "baselines=[]")
    assert record["status"] == "done"
    assert record["history"][-1]["train/loss"] > 0
    assert record["selection"]["last"].keys() == record["selection"]["best_val"].keys()


def test_the_gain_is_over_the_same_labels_and_budget(record_of: Run) -> None:
    record = record_of("target.labels_per_class=5")
    scratch = record["baselines"]["scratch"]
    assert scratch["steps"] == record["cost"]["steps"]
    assert len(scratch["history"]) == len(record["history"]) == 5
    gain = record["metrics"]["target/test/accuracy"] - scratch["metrics"]["target/test/accuracy"]
    assert record["transfer"]["gain"] == pytest.approx(gain)


def test_scratch_is_its_own_baseline(record_of: Run) -> None:
    record = record_of("strategy=scratch")
    assert record["transfer"]["gain"] == 0.0
    assert "source/test/accuracy" not in record["metrics"]
    again = record_of("strategy=fine_tune")
    assert again["baselines"]["scratch"]["history"] == record["history"]


def test_frozen_layer_groups_are_exactly_as_they_were_transferred(record_of: Run) -> None:
    found = record_of("strategy=last_stage", "backbone=resnet20", "baselines=[]")["transferred"]
    *frozen, last = found["groups"].values()
    assert {(row["moved"], row["buffers_moved"], row["cka"]) for row in frozen} == {(0.0, 0.0, 1.0)}
    assert 0 < last["moved"] == pytest.approx(found["moved"])
    assert last["buffers_moved"] > 0
    assert 0 <= last["cka"] < 1
    assert found["images"] == 60
    assert found["forgotten"] is not None


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_linear_probe_leaves_the_backbone_as_it_was_in_any_precision(record_of: Run, precision: str) -> None:
    found = record_of("strategy=linear_probe", f"precision={precision}", "baselines=[]")["transferred"]
    assert {(row["moved"], row["cka"]) for row in found["groups"].values()} == {(0.0, 1.0)}
    assert (found["forgotten"], found["images"]) == (0.0, 0)


def test_the_start_is_what_transfer_starts_from_and_the_end_what_is_kept(record_of: Run) -> None:
    first = record_of("baselines=[]")
    second = record_of("source=none", f"backbone.weights={first['folder']}", "baselines=[]", "analysis.cka_images=0")
    before, after = (load_file(run["folder"] / "weights" / "backbone.safetensors") for run in (first, second))
    for name, row in second["transferred"]["groups"].items():
        squares = [float((after[key] - before[key]).double().square().sum()) for key in after if key.startswith(name)]
        assert row["moved"] == pytest.approx(sum(squares) ** 0.5, rel=1e-5)
        assert row["cka"] is None
    assert second["transferred"]["forgotten"] is None


def test_from_scratch_nothing_is_transferred(record_of: Run) -> None:
    record = record_of("strategy=scratch")
    assert record["transferred"] == {}
    assert record["reliability"] == record["baselines"]["scratch"]["reliability"]
    assert sum(record["reliability"]["samples"]) == 30
    assert record["training_labels"] == 48


def test_a_run_that_diverges_ends_at_that_step(record_of: Run) -> None:
    with pytest.raises(
        UserError, match=r"the (loss is|weights are not finite).* batch \d of epoch \d, of target image \d+,"
    ):
        record_of("optimizer.lr=1e30", "logger=tensorboard", "baselines=[]")


def test_weights_of_an_earlier_run_are_a_start(record_of: Run) -> None:
    first = record_of("baselines=[]")
    second = record_of("source=none", f"backbone.weights={first['folder']}", "strategy=linear_probe", "baselines=[]")
    assert second["source"] is None
    before = load_file(first["folder"] / "weights" / "backbone.safetensors")
    after = load_file(second["folder"] / "weights" / "backbone.safetensors")
    assert all((before[name] == after[name]).all() for name in before)


def test_an_adapter_is_recorded_and_saved_alone_and_merged(record_of: Run) -> None:
    record = record_of("adapter=lora", "optimizer.lr=0.01")
    adapter, cost = record["adapter"], record["cost"]
    assert (adapter["kind"], adapter["parameters"], len(adapter["layers"])) == ("lora", 7768, 4)
    assert adapter["skipped"] == {}
    assert adapter["trainable_parameters"] == cost["trainable_parameters"] == 7768 + 3 * 84 + 3
    assert adapter["share"] == pytest.approx(cost["trainable_parameters"] / cost["num_parameters"])
    assert record["metrics"]["source/test/accuracy_after_transfer"] != record["metrics"]["source/test/accuracy"]
    plain = record_of("baselines=[]")
    assert plain["adapter"] is None
    files = {name: load_file(record["folder"] / "weights" / f"{name}.safetensors") for name in ("backbone", "network")}
    expected = load_file(plain["folder"] / "weights" / "network.safetensors")
    assert files["network"].keys() == expected.keys()
    alone = load_file(record["folder"] / "weights" / "adapter.safetensors")
    assert {name for name in alone if "lora" not in name} == {"head.linear.weight", "head.linear.bias"}
    again = record_of("source=none", f"backbone.weights={record['folder']}", "strategy=linear_probe", "baselines=[]")
    assert again["metrics"]["target/test/accuracy"] > 1 / 3


def test_baselines_train_without_the_adapter(record_of: Run) -> None:
    with_adapter, without = record_of("adapter=bottleneck"), record_of()
    assert with_adapter["baselines"]["scratch"]["history"] == without["baselines"]["scratch"]["history"]
    num_parameters = without["cost"]["num_parameters"]
    assert with_adapter["baselines"]["scratch"]["trainable_parameters"] == num_parameters
    assert with_adapter["cost"]["num_parameters"] > num_parameters > with_adapter["cost"]["trainable_parameters"]


@pytest.mark.parametrize("adapter", ["bottleneck", "visual_prompt", "side_tuning"])
def test_what_cannot_be_merged_leaves_no_plain_backbone(record_of: Run, adapter: str) -> None:
    record = record_of(f"adapter={adapter}", "baselines=[]")
    folder = record["folder"] / "weights"
    assert {path.name for path in folder.iterdir()} == {"adapter.safetensors", "network.safetensors"}
    assert record["metrics"]["source/test/accuracy_after_transfer"] >= 0
    with pytest.raises(UserError, match="that run's adapter cannot be merged into a plain backbone"):
        record_of("source=none", f"backbone.weights={record['folder']}", "baselines=[]")


@pytest.mark.parametrize(
    "overrides",
    [
        ("adapter=vera", "strategy=gradual_unfreeze", "precision=bf16-true"),
        ("adapter=lora", "after=[temperature,tta]", "callbacks=swa", "target.augmentation.crop_padding=2"),
        ("adapter=oft", "strategy=surgical_auto", "precision=64-true"),
        ("adapter=rslora", "strategy=lp_ft", "head=ridge"),
        ("adapter=dora", "strategy=discriminative", "callbacks=ema", "precision=bf16-mixed"),
        ("adapter=lora", "backbone=resnet20", "strategy=gradual_unfreeze"),
        ("adapter=ia3", "backbone=resnet20", "strategy=plateau_unfreeze_best", "adapter.targets.groups=[-1]"),
    ],
    ids=" ".join,
)
def test_adapters_train_under_strategies_and_options(record_of: Run, overrides: tuple[str, ...]) -> None:
    record = record_of(*overrides, "baselines=[]")
    assert record["status"] == "done"
    merged = load_file(record["folder"] / "weights" / "backbone.safetensors")
    assert all(tensor.isfinite().all() for tensor in merged.values())


@pytest.mark.parametrize(
    "regulariser", ["l2_sp", "delta", "bss", "co_tuning", "lwf", "ewc", "feature_distillation", "sam"]
)
def test_regularisers_act_on_what_an_adapter_makes_of_the_backbone(record_of: Run, regulariser: str) -> None:
    record = record_of("adapter=lora", f"regulariser={regulariser}", "strategy=gradual_unfreeze", "baselines=[]")
    assert record["adapter"]["parameters"] == 7768
    assert (f"train/{regulariser}" in record["history"][-1]) == (regulariser != "sam")


def test_an_adapter_enters_the_key_of_the_stage_and_of_features(config: Callable[..., dict[str, Any]]) -> None:
    keys = set()
    for overrides in ((), ("adapter=lora",), ("adapter=lora", "adapter.alpha=8"), ("adapter=ia3",)):
        experiment = build_experiment(config(*overrides))
        network = planned_network(experiment)
        how = Inference(torch.device("cpu"))
        prefix = Prefix.whole(network.backbone)
        keys.add(features_key(prefix, "weights", experiment.target, "train", how))
    assert len(keys) == 4


def test_probes_of_one_backbone_are_scored_from_the_same_features(
    record_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = ("strategy=linear_probe", "baselines=[]", "selection.rule=best_val")
    first = record_of(*probe)
    through = record_of(*probe, "features.cache_limit_gib=0")
    assert through["metrics"] == first["metrics"]
    monkeypatch.setattr("graft.features.outputs", None)  # nothing more may go through the backbone
    monkeypatch.setattr("graft.evaluation.evaluation_loader", None)
    assert record_of(*probe, "optimizer.lr=0.01")["metrics"] != first["metrics"]


def test_test_labels_change_nothing_but_test_scores(record_of: Run, tmp_path: Path) -> None:
    target = dict(np.load(tmp_path / "target.npz"))
    first = record_of("selection.rule=best_val", "baselines=[]")
    target["y_test"] = np.random.default_rng(0).permutation(target["y_test"])
    np.savez(tmp_path / "target.npz", **target)
    second = record_of("selection.rule=best_val", "baselines=[]")

    def without_time(record: dict[str, Any]) -> list[dict[str, Any]]:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in record["history"]]

    assert without_time(first) == without_time(second)
    states = [load_file(record["folder"] / "weights" / "network.safetensors") for record in (first, second)]
    assert all((states[0][name] == states[1][name]).all() for name in states[0])
    assert first["metrics"]["target/test/accuracy"] != second["metrics"]["target/test/accuracy"]


def key(config: dict[str, Any]) -> str:
    experiment = build_experiment(config)
    assert experiment.source is not None
    experiment.source.load(experiment.backbone().preprocessing)
    return stage_key(experiment, experiment.pretrain, config["pretrain"], experiment.source, None)


@pytest.mark.parametrize(
    "override", ["logger=tensorboard", "trainer.log_every_n_steps=1", "source.num_workers=1", "target.batch_size=8"]
)
def test_what_leaves_the_weights_alone_leaves_the_key(config: Callable[..., dict[str, Any]], override: str) -> None:
    assert key(config(override)) == key(config())


@pytest.mark.parametrize(
    "override",
    [
        "pretrain.seed=1",
        "pretrain.max_epochs=4",
        "pretrain.optimizer.lr=0.1",
        "source.batch_size=8",
        "source.labels_per_class=3",
        "source.augmentation.flip=true",
        "backbone=resnet20",
        "trainer.gradient_clip_val=1.0",
        "precision=bf16-mixed",
        "memory_format=contiguous",
    ],
)
def test_what_changes_the_weights_changes_the_key(config: Callable[..., dict[str, Any]], override: str) -> None:
    assert key(config(override)) != key(config())


def test_folded_norm_layers_are_not_normalised_anew(config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Weights whose norms were folded for inference: statistics of data would undo them."""
    save_weights(ResNetCifar(depth=20), tmp_path / "folded.safetensors", {})
    chosen = ("source=none", "backbone=resnet20", f"backbone.weights={tmp_path / 'folded.safetensors'}")
    for strategy in ("fine_tune", "adabn", "gradual_unfreeze"):
        with pytest.raises(UserError, match=r"folded .*add \+strategy.norm_statistics=eval"):
            planned_network(build_experiment(config(*chosen, f"strategy={strategy}")))
    for fixed in (
        "strategy=linear_probe",
        "strategy=lp_ft",
        "strategy=scratch",
        "+strategy.norm_statistics=eval",
        "adapter=lora",
    ):
        planned_network(build_experiment(config(*chosen, fixed)))


def stage_keys(config: dict[str, Any]) -> dict[str, str]:
    """The keys of pretraining, of the transfer stage from it, and of its baseline."""
    experiment = build_experiment(config)
    experiment.target.load(experiment.backbone().preprocessing)
    pretrained = key(config)
    scratch = baseline_training(experiment, "scratch")
    return {
        "pretrain": pretrained,
        "transfer": target_key(experiment, experiment.transfer, Start("source", pretrained), None),
        "baseline": target_key(experiment, scratch, Start("scratch"), None),
    }


def test_a_regulariser_changes_the_key_of_the_transfer_stage_alone(config: Callable[..., dict[str, Any]]) -> None:
    keys = [
        stage_keys(config(*overrides))
        for overrides in (
            (),
            ("regulariser=bss",),
            ("regulariser=bss", "regulariser.bss.weight=0.1"),
            ("regulariser=[bss,l2_sp]",),
        )
    ]
    assert len({found["transfer"] for found in keys}) == len(keys)
    assert len({(found["pretrain"], found["baseline"]) for found in keys}) == 1


def test_a_run_that_adapts_shows_every_rule_side_by_side(record_of: Run, tmp_path: Path) -> None:
    shared = (f"source.path={tmp_path / 'target.npz'}", "adaptation=mcc", "target.augmentation.flip=true")
    record = record_of(*shared, "selection.rule=entropy", "selection.oracle=true", "trainer.max_epochs=3")
    rules = {name: entry for name, entry in record["selection"].items() if isinstance(entry, dict)}
    assert rules.keys() == {"last", "best_val", *LABEL_FREE, "oracle"}
    assert record["selection"]["rule"] == "entropy"
    assert [name for name, entry in rules.items() if "uses_test_labels" in entry] == ["oracle"]
    metrics = {key: value for key, value in record["metrics"].items() if key.startswith("target/")}
    assert {key: value for key, value in rules["entropy"].items() if key.startswith("target/")} == metrics
    for entry in rules.values():
        assert entry["epoch"] in (1, 2, 3)
        assert entry["target/test/accuracy"] <= rules["oracle"]["target/test/accuracy"] == rules["oracle"]["score"]
    scores = [row["selection/entropy"] for row in record["history"]]
    assert (rules["entropy"]["score"], rules["entropy"]["epoch"]) == (max(scores), scores.index(max(scores)) + 1)
    assert record["cost"]["selection_seconds"] == sum(row["selection/seconds"] for row in record["history"]) > 0
    saved = load_file(record["folder"] / "weights" / "network.safetensors")
    epoch = record["folder"] / "transfer" / f"epoch_{rules['entropy']['epoch']}.ckpt"
    assert all(torch.equal(saved[name], tensor) for name, tensor in read_checkpoint(epoch)["state"].items())
    plain = record_of(*shared, "selection.images=0", "trainer.max_epochs=3")
    assert {name for name, entry in plain["selection"].items() if isinstance(entry, dict)} == {"last", "best_val"}
    assert plain["selection"]["last"] == rules["last"]


def test_a_run_keeps_pictures_of_what_it_confused(record_of: Run) -> None:
    record = record_of("strategy=linear_probe", "baselines=[]", "trainer.max_epochs=1", "optimizer.lr=1e-6")
    errors = record["classes"]["most_confused"]
    assert errors
    with Image.open(record["folder"] / "pictures" / "confused.png") as picture:
        assert picture.height == 4 + len(errors) * (THUMBNAIL + 26)
        assert picture.width >= 6 + min(8, errors[0]["samples"]) * (THUMBNAIL + 6)
