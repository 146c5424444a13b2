"""The same run, whichever way its data reach it: in memory, streamed from files or a cache, by workers, cut off."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import Interrupt, network, stage, training
from PIL import Image

from graft.data.augment import Augmentation
from graft.data.domain import Domain
from graft.data.readers.image_folder import ImageFolder
from graft.evaluation import evaluate
from graft.models.backbones.cnn import Cnn
from graft.stage import Fitted, fit_stage

NUM_PER_CLASS = 14
ADAMW = partial(torch.optim.AdamW, lr=2e-3)
WAYS: dict[str, dict[str, Any]] = {
    "no_workers": {"memory_limit_gib": 0.0, "num_workers": 0},
    "two_workers": {"memory_limit_gib": 0.0, "num_workers": 2},
    "cache": {"memory_limit_gib": 0.0, "num_workers": 0, "cache": "cache"},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images of three classes, larger than what the network sees, no two of one size."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label in ("a", "b", "c"):
        (folder / label).mkdir()
        colour = rng.integers(0, 256, 3)
        for number in range(NUM_PER_CLASS):
            pixels = (colour + rng.normal(0, 60, (36 + number, 50 - number, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def result(folder: Path, images: Path, way: dict[str, Any], cut_off: bool = False) -> tuple[Fitted, dict[str, Any]]:
    """A small training with random views, and its scores."""
    way = way | ({"cache": folder / way["cache"]} if "cache" in way else {})
    augmentation = Augmentation(resized_crop=(0.5, 1.0), flip=True, brightness=0.2, mixup=0.2)
    domain = Domain("images", ImageFolder(images), batch_size=8, val_fraction=0.2, augmentation=augmentation, **way)
    domain.load(Cnn().preprocessing)
    how = replace(training("lp_ft", 3, ADAMW), save_every=0.0)
    if cut_off:
        broken = replace(how, callbacks=lambda: [Interrupt(1)])
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit_stage(stage(folder / "stage", domain, broken), network("resnet20"))
    trained = network("resnet20")
    fitted = fit_stage(stage(folder / "stage", domain, how), trained)
    return fitted, evaluate(trained, domain, "val", torch.device("cpu"))


@pytest.fixture(scope="module")
def in_memory(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fitted, dict[str, Any]]:
    """What a run comes to that keeps all images in memory."""
    return result(tmp_path_factory.mktemp("kept"), images, {"memory_limit_gib": 1.0})


@pytest.mark.parametrize("cut_off", [False, True], ids=["undisturbed", "cut_off"])
@pytest.mark.parametrize("way", WAYS)
def test_weights_and_metrics_are_the_same_to_the_last_bit(
    tmp_path: Path, images: Path, in_memory: tuple[Fitted, dict[str, Any]], way: str, cut_off: bool
) -> None:
    fitted, scores = result(tmp_path, images, WAYS[way], cut_off)
    expected, expected_scores = in_memory
    for name, weights in expected.last.items():
        assert torch.equal(fitted.last[name], weights), name
    rows = [[{key: row[key] for key in row if key != "seconds"} for row in one.history] for one in (fitted, expected)]
    assert rows[0] == rows[1]
    assert scores == expected_scores
