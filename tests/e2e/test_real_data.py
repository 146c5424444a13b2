"""Real photographs and real weights, where they lie beside the checkout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageOps
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


def test_exported_networks_of_ants_and_bees_predict_as_graft_does(graft: Graft, tmp_path: Path, shared: Path) -> None:
    photos = shared / "data" / "hymenoptera"
    assert graft(*PROBE, "target=image_folder", f"target.path={photos}", *mobilenet(shared)).returncode == 0
    done = graft("predict", "outputs/latest", str(photos / "val"), "--format", "json")
    assert done.returncode == 0, done.stderr
    predicted = [json.loads(line) for line in done.stdout.splitlines()]
    for kind in ("onnx", "torch_export"):
        done = graft("export", "outputs/latest", "--format", kind)
        assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "latest" / "export"
    described = json.loads((folder / "model.json").read_text())
    images = np.stack([pixels_by_pillow(Path(row["path"]), described) for row in predicted])
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        outputs = (session.run(["logits"], {"images": images})[0], program(torch.from_numpy(images))[0].numpy())
    for logits in outputs:
        assert [described["classes"][index] for index in logits.argmax(1)] == [row["class"] for row in predicted]
    assert len(predicted) == 153
    right = sum(row["class"] == Path(row["path"]).parent.name for row in predicted)
    assert right / 153 == record(tmp_path)["metrics"]["target/test/accuracy"]


def pixels_by_pillow(path: Path, described: dict[str, Any]) -> np.ndarray:
    """uint8 [c, size, size]: an image as the JSON file beside an exported network wants it, by Pillow alone."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    canvas, size = described["before"][2]["to"], described["input"]["shape"][2]
    shorter = min(image.size)
    image = image.resize(tuple(int(canvas * edge / shorter) for edge in image.size), Image.Resampling.BILINEAR)
    left, top = (round((edge - canvas) / 2) + round((canvas - size) / 2) for edge in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


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


def test_a_ranking_of_four_backbones_is_that_of_their_accuracies(graft: Graft, tmp_path: Path, shared: Path) -> None:
    weights, cifar10 = shared / "weights", shared / "data" / "cifar10_15k.npz"
    target = (f"target.path={shared / 'data' / 'office_caltech10'}", "target.domain=webcam", "target.test_fraction=0.4")
    words = (*PROBE, "target=image_folder", *target, "target.labels_per_class=5", "pretrain.max_epochs=2")
    candidates = (
        " ".join(mobilenet(shared)),
        f"backbone=squeezenet1_1 backbone.weights={weights / 'squeezenet1_1_imagenet.safetensors'}",
        f"source=none backbone=resnet20 backbone.weights={weights / 'resnet20_cifar10.safetensors'}",
        f"source=arrays source.path={cifar10}",
    )
    for candidate in candidates:
        done = graft(*words, *candidate.split())
        assert done.returncode == 0, done.stderr
    options = (word for candidate in candidates for word in ("--candidate", candidate))
    done = graft("rank", *words, *options, "--runs", "outputs")
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob("outputs/rank/*/ranking.json")
    ranking = json.loads(path.read_text())
    assert all(row["fine_tuned"]["n"] == 1 for row in ranking["candidates"])
    for score in ("logme", "h_score", "knn", "linear_probe"):
        assert ranking["weighted_tau"][score] > 0.5
