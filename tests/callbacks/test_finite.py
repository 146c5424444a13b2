"""A loss that is no number is caught at its step, with the images named, and the last checkpoint is good."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import network, stage, tiny_domain, training
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer

from graft.callbacks.checkpoints import LAST, read_checkpoint
from graft.data.domain import Domain
from graft.data.readers.image_folder import ImageFolder
from graft.errors import UserError
from graft.models.backbones.cnn import Cnn
from graft.stage import fit_stage


class Spoil(Callback):
    """Makes weights NaN before or after a batch of the second epoch."""

    def __init__(self, before: int | None = None, after: int | None = None) -> None:
        self.before, self.after = before, after

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._spoil(trainer, pl_module, batch_idx == self.before)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._spoil(trainer, pl_module, batch_idx == self.after)

    def _spoil(self, trainer: Trainer, module: LightningModule, now: bool) -> None:
        if now and trainer.current_epoch == 1:
            next(module.network.head.parameters()).data.fill_(torch.nan)


def folder_of_images(folder: Path) -> Domain:
    for label, colour in (("a", 60), ("b", 200)):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (32, 32), (colour, number, 0)).save(folder / label / f"{number}.png")
    domain = Domain("folder", ImageFolder(path=str(folder)), batch_size=8, val_fraction=0.0)
    domain.load(Cnn().preprocessing)
    return domain


def test_a_loss_that_is_no_number_names_the_batch(tmp_path: Path) -> None:
    domain = folder_of_images(tmp_path / "images")
    with pytest.raises(
        UserError, match=r"^the loss is nan in batch 2 of epoch 2, of folder [ab]/\d+\.png, .* and \d more; "
    ):
        fit_stage(stage(tmp_path / "s", domain, training(callbacks=(Spoil(before=1),))), network(num_classes=2))
    assert len(read_checkpoint(tmp_path / "s" / LAST)["stage"]["history"]) == 1


def test_no_checkpoint_holds_weights_that_are_no_numbers(tmp_path: Path) -> None:
    domain = tiny_domain(tmp_path)
    with pytest.raises(UserError, match=r"^the weights are not finite after batch 3 of epoch 2, of tiny image \d+, "):
        fit_stage(stage(tmp_path / "s", domain, training(callbacks=(Spoil(after=2),))), network())
    left = read_checkpoint(tmp_path / "s" / LAST)
    assert len(left["stage"]["history"]) == 1
    assert all(bool(tensor.isfinite().all()) for tensor in left["state_dict"].values())
