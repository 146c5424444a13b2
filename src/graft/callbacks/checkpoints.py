"""What a stage leaves on disk while it runs: its last epoch, its best epoch, its history."""

import logging
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from graft.adaptation.selection import PREFIX as SELECTION
from graft.callbacks.candidates import SECONDS, Candidates
from graft.errors import UserError
from graft.module import PREFIX, GraftModule
from graft.records.files import atomic_file
from graft.strategies.engine import optimizer_state_by_name
from graft.torch_files import load_plain

log = logging.getLogger(__name__)

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
BEST = "best.ckpt"
BEST_OF_PHASE = "best_of_phase_{}.ckpt"
OF_EPOCH, OF_STATE = (
    {"state_dict", "stage"},
    {"key", "state"},
)  # what a checkpoint holds: all, or a network's state alone


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under its name only when all of it is on disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write beside, sync and rename."""
        with atomic_file(Path(path)) as file:
            torch.save(checkpoint, file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of plain types and tensors onto the CPU.

    Raises:
        UserError: the file is empty, cut off, damaged, foreign, or holds anything but plain types and tensors.
    """
    try:
        checkpoint = load_plain(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a usable checkpoint ({error})") from error
    if not isinstance(checkpoint, dict) or not any(parts <= checkpoint.keys() for parts in (OF_EPOCH, OF_STATE)):
        raise UserError(f"{path}: not a checkpoint of graft")
    return checkpoint


def read_last_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest usable checkpoint of a stage: the last, or the one before where the last is damaged.

    Raises:
        UserError: there are checkpoints and all are damaged.
    """
    damaged: list[UserError] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            damaged.append(error)
            continue
        if damaged:
            log.warning("%s; continuing from %s", damaged[0], path.name)
        return path, checkpoint
    if damaged:
        raise damaged[0]
    return None


class StageCheckpoint(Checkpoint):
    """Appends a row to the history after each epoch, then saves the last and, when it improved, the best checkpoint.

    Lightning calls callbacks of this base class after all others, early stopping included, so what is saved knows
    whether the phase is over. An epoch's seconds run from the end of the one before, or from the making of this
    callback: what is prepared for an epoch, such as cached features, is part of its cost.

    Args:
        folder: where the checkpoints go.
        key: content hash of the stage.
        phase_index: which phase of the stage is fitted.
        history: the stage's epochs so far; rows are appended in place.
        monitor: the metric whose best epoch is kept.
        untouched: keys of the network's state that are as the stage began, and need not be written in every epoch.
    """

    phase_monitor: tuple[str, str] | None = None  # metric, "min" or "max", whose best epoch of the phase is kept too
    candidates: Candidates | None = None  # where rules without labels of the target choose among the epochs

    def __init__(
        self,
        folder: Path,
        key: str,
        phase_index: int,
        history: list[dict[str, Any]],
        monitor: str,
        untouched: frozenset[str],
    ) -> None:
        self.folder = folder
        self.untouched = untouched
        self.key = key
        self.phase_index = phase_index
        self.history = history
        self.monitor = monitor
        self._counted_to = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write down the epoch."""
        assert isinstance(pl_module, GraftModule)
        self.history.append(self._row(trainer, pl_module))
        path = self.folder / LAST
        if trainer.is_global_zero and path.exists():
            os.replace(path, self.folder / PREVIOUS)
        trainer.save_checkpoint(path)
        if trainer.is_global_zero and best_epoch(self.history, self.monitor) == self.history[-1]["epoch"]:
            link_atomically(path, self.folder / BEST)
        if trainer.is_global_zero and self.phase_monitor is not None:
            rows = [row for row in self.history if row["phase_index"] == self.phase_index]
            if best_epoch(rows, *self.phase_monitor) == self.history[-1]["epoch"]:
                link_atomically(path, self.folder / BEST_OF_PHASE.format(self.phase_index))
        if self.candidates is not None:
            self._counted_to += self.history[-1].get(SECONDS, 0.0)
            show_scores(trainer, self.history[-1])
            if trainer.is_global_zero:
                self.candidates.tidy(self.history)

    def _row(self, trainer: Trainer, module: GraftModule) -> dict[str, Any]:
        steps_before = self.history[-1]["step"] if self.history else 0
        seconds_before = self.history[-1]["seconds"] if self.history else 0.0
        rates = {f"lr/{group['name']}": group["lr"] for group in trainer.optimizers[0].param_groups}
        counted_from, self._counted_to = self._counted_to, time.monotonic()
        return {
            "epoch": module.stage_epoch + 1,
            "phase": module.phase.name,
            "phase_index": module.phase.index,
            "step": steps_before + module.steps_per_epoch,
            "seconds": seconds_before + self._counted_to - counted_from,
            **module.epoch_metrics,
            **rates,
        }

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what the stage needs to go on from here, and leave out weights that are as the stage began."""
        for name in self.untouched:
            del checkpoint["state_dict"][PREFIX + name]
        over = trainer.should_stop or trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        if self.candidates is not None and self.history:
            state = network_state(checkpoint)
            self.candidates.consider(self.history, state, over, trainer.is_global_zero)
        checkpoint["stage"] = {
            "key": self.key,
            "phase_index": self.phase_index,
            "phase_over": over,
            "history": self.history,
            "untouched": sorted(self.untouched),
            "optimizer": optimizer_state_by_name(trainer.optimizers[0]),
        }


def network_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The network's part of a checkpoint, without what is as the stage began."""
    return {name.removeprefix(PREFIX): t for name, t in checkpoint["state_dict"].items() if name.startswith(PREFIX)}


def show_scores(trainer: Trainer, row: dict[str, Any]) -> None:
    """Log an epoch's label-free scores, those that are numbers, at the stage's own step."""
    scores = {name: value for name, value in row.items() if name.startswith(SELECTION) and math.isfinite(value)}
    for logger in trainer.loggers:
        logger.log_metrics(scores, step=row["step"])


def best_epoch(history: list[dict[str, Any]], monitor: str, mode: str = "max") -> int:
    """The first epoch with the best value of `monitor`, or the last epoch where it was never measured."""
    measured = [row for row in history if monitor in row]
    if not measured:
        return int(history[-1]["epoch"])
    best = max if mode == "max" else min
    return int(best(measured, key=lambda row: row[monitor])["epoch"])


def link_atomically(source: Path, destination: Path) -> None:
    """Let `destination` be the file that `source` is now; what takes the place of `source` later leaves it alone."""
    temporary = destination.with_name(f".{destination.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without links
        shutil.copyfile(source, temporary)
    os.replace(temporary, destination)
