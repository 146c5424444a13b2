"""Real photographs and real weights, where they lie beside the checkout."""

import json
from pathlib import Path
from typing import Any

import pytest
from processes import Graft

pytestmark = [pytest.mark.shared, pytest.mark.slow]
PROBE = ("strategy=linear_probe", "baselines=[]", "logger=none")


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "outputs" / "latest" / "record.json").read_text())
    return found


def mobilenet(shared: Path) -> tuple[str, str]:
    return "backbone=mobilenet_v2", f"backbone.weights={shared / 'weights' / 'mobilenet_v2_imagenet.safetensors'}"


def test_ants_and_bees_by_a_linear_probe(graft: Graft, tmp_path: Path, shared: Path) -> None:
    target = ("target=image_folder", f"target.path={shared / 'data' / 'hymenoptera'}")
    done = graft(*PROBE, *target, *mobilenet(shared))
    assert done.returncode == 0, done.stderr
    assert record(tmp_path)["metrics"]["target/test/accuracy"] >= 0.93
    assert sum(map(sum, record(tmp_path)["classes"]["confusion"])) == 153


def test_two_domains_of_office_caltech(graft: Graft, tmp_path: Path, shared: Path) -> None:
    office = shared / "data" / "office_caltech10"
    source = ("source=image_folder", f"source.path={office}", "source.domain=dslr")
    target = ("target=image_folder", f"target.path={office}", "target.domain=webcam")
    done = graft(*PROBE, "strategy@pretrain.strategy=linear_probe", *source, *target, *mobilenet(shared))
    assert done.returncode == 0, done.stderr
    metrics = record(tmp_path)["metrics"]
    assert metrics["source/test/accuracy"] > 0.7
    assert metrics["target/test/accuracy"] > 0.9
    assert (record(tmp_path)["source"], record(tmp_path)["target"]) == ("dslr", "webcam")


def test_the_classical_case_beats_scratch(graft: Graft, tmp_path: Path, shared: Path) -> None:
    source = ("source=arrays", f"source.path={shared / 'data' / 'cifar10_15k.npz'}")
    target = ("target=arrays", f"target.path={shared / 'data' / 'cifar100_15k.npz'}", "target.labels_per_class=10")
    brief = ("pretrain.max_epochs=4", "trainer.max_epochs=8", "optimizer.lr=0.03", "logger=none")
    done = graft("experiment=cifar10_to_cifar100", *source, *target, *brief)
    assert done.returncode == 0, done.stderr
    assert record(tmp_path)["transfer"]["gain"] > 0
