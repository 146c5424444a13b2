"""Losses and weights that are no longer numbers end a fit at that step, before a checkpoint could hold them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from graft.batch import PairedBatch
from graft.data.domain import Domain
from graft.errors import UserError, listed
from graft.module import BATCHES_AT_ONCE, GraftModule

MOST_NAMES = 5  # of a batch's images, in the error
ADVICE = "a lower learning rate may help, or trainer.gradient_clip_val=1"


class _Seen(NamedTuple):
    epoch: int
    batch_index: int
    loss: Tensor
    positions: "Positions"


class Positions(NamedTuple):
    """Where a batch's images are in their splits: those of the domain with labels, and those without."""

    labelled: Tensor | None
    unlabelled: Tensor | None


class FiniteLoss(Callback):
    """Ends the fit at the first step whose loss is not finite.

    On a device that computes while the program goes on, asking for every loss would make each step wait: there the
    losses are looked at together, every `BATCHES_AT_ONCE` batches and before each checkpoint. No checkpoint is written
    of weights that are not finite, so the last one is good.

    Args:
        name_images: says which images are at the positions.
        where: the last checkpoint, for the error.
    """

    def __init__(self, name_images: Callable[[Positions], str], where: str) -> None:
        self.name_images, self.where = name_images, where
        self._seen: list[_Seen] = []
        self._last: list[_Seen] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss, or note it.

        Raises:
            UserError: it is not finite.
        """
        assert isinstance(pl_module, GraftModule)
        self._seen.append(
            _Seen(pl_module.stage_epoch + 1, batch_idx + 1, outputs["loss"].detach(), positions_of(batch))
        )
        if pl_module.device.type == "cpu" or len(self._seen) == BATCHES_AT_ONCE:
            self._look()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look before anything is written.

        Raises:
            UserError: a loss or a weight that is trained is not finite.
        """
        self._look()
        trained = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        if not all(bool(parameter.isfinite().all()) for parameter in trained):
            raise UserError(self._said("the weights are not finite after", self._last[0]))

    def _look(self) -> None:
        if not self._seen:
            return
        self._last, seen, self._seen = self._seen[-1:], self._seen, []
        losses = [float(seen[0].loss)] if len(seen) == 1 else torch.stack([each.loss for each in seen]).tolist()
        for each, loss in zip(seen, losses, strict=True):
            if not math.isfinite(loss):
                raise UserError(self._said(f"the loss is {loss:g} in", each))

    def _said(self, what: str, seen: _Seen) -> str:
        return (
            f"{what} batch {seen.batch_index} of epoch {seen.epoch}, of {self.name_images(seen.positions)}; "
            f"{self.where} is from before; {ADVICE}"
        )


def positions_of(batch: Any) -> Positions:
    """The positions alone, so that nothing holds the images."""
    if not isinstance(batch, PairedBatch):
        return Positions(batch.positions, None)
    return Positions(None if batch.source is None else batch.source.positions, batch.target.positions)


def name_images(labelled: Domain, unlabelled: Domain | None, positions: Positions) -> str:
    """The images of a batch by name, those of both domains where there are two."""
    parts = []
    if positions.labelled is not None:
        parts.append(f"{labelled.name} {listed(labelled.training_names(positions.labelled.cpu()), MOST_NAMES)}")
    if positions.unlabelled is not None:
        assert unlabelled is not None
        names = unlabelled.training_names(positions.unlabelled.cpu(), unlabelled=True)
        parts.append(f"{unlabelled.name} {listed(names, MOST_NAMES)}")
    return " and ".join(parts)
