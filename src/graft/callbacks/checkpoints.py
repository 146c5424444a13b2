"""What a stage leaves on disk while it runs: how far it is, its best epoch, its history."""

import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
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
from graft.preemption import PreemptedError, asked, listen_again
from graft.records.files import atomic_file
from graft.strategies.engine import optimizer_state_by_name
from graft.torch_files import load_plain

log = logging.getLogger(__name__)

LAST = "last.ckpt"
NEW = ".new.ckpt"  # until all that is derived from it is there too
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

    Between the ends of epochs it saves whenever so many seconds have passed, and before the process ends because it was
    asked to (`preemption`); what is derived from an epoch is written before the checkpoint that says so takes its name.

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
    every: float = math.inf  # seconds between checkpoints within an epoch
    saved: dict[str, Any] | None = None  # the newest checkpoint; its tensors may be those that are being trained

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
        self._counted_to = self._saved_at = time.monotonic()
        self._within: dict[str, Any] | None = None  # how far in its epoch the checkpoint is that is being saved

    def go_on(self, within: dict[str, Any]) -> None:
        """Begin in the middle of an epoch, of which some seconds lie behind."""
        self._counted_to -= within["seconds"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What asks the process to end is heard here."""
        listen_again()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is time to, or where the process was asked to end, unless the epoch ends with this batch.

        Raises:
            PreemptedError: it was, and all is saved.
        """
        due = asked() or time.monotonic() >= self._saved_at + self.every
        if trainer.world_size > 1:
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if not due or trainer.is_last_batch or trainer.fit_loop._should_accumulate():
            return
        assert isinstance(pl_module, GraftModule)
        seconds = time.monotonic() - self._counted_to
        self._within = {"batches": batch_idx + 1, "seconds": seconds, "tally": pl_module.tally_state()}
        self._save(trainer)
        self._within = None
        end_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write down the epoch.

        Raises:
            PreemptedError: the process was asked to end, and all is saved.
        """
        assert isinstance(pl_module, GraftModule)
        self.history.append(self._row(trainer, pl_module))
        self._save(trainer)
        if self.candidates is not None:
            self._counted_to += self.history[-1].get(SECONDS, 0.0)
            show_scores(trainer, self.history[-1])
            if trainer.is_global_zero:
                self.candidates.tidy(self.history)
        end_if_asked(trainer)

    def _save(self, trainer: Trainer) -> None:
        """Write the checkpoint, let others that this one is too refer to it, and only then make it the last."""
        new, last = self.folder / NEW, self.folder / LAST
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            for name in self._other_names() if self._within is None else ():
                link_atomically(new, self.folder / name)
            if last.exists():
                os.replace(last, self.folder / PREVIOUS)
            os.replace(new, last)
        trainer.strategy.barrier("checkpoint")
        self._saved_at = time.monotonic()

    def _other_names(self) -> Iterator[str]:
        """What the newest epoch is beside the last one."""
        epoch = self.history[-1]["epoch"]
        if best_epoch(self.history, self.monitor) == epoch:
            yield BEST
        if self.phase_monitor is not None:
            rows = [row for row in self.history if row["phase_index"] == self.phase_index]
            if best_epoch(rows, *self.phase_monitor) == epoch:
                yield BEST_OF_PHASE.format(self.phase_index)

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
        at_end = self._within is None
        over = at_end and (trainer.should_stop or trainer.current_epoch + 1 >= (trainer.max_epochs or 0))
        if self.candidates is not None and at_end:
            state = network_state(checkpoint)
            self.candidates.consider(self.history, state, over, trainer.is_global_zero)
        assert isinstance(pl_module, GraftModule)
        checkpoint["stage"] = {
            "key": self.key,
            "phase_index": self.phase_index,
            "phase_over": over,
            "within_epoch": self._within,
            "history": self.history,
            "untouched": sorted(self.untouched),
            "micro_batch": pl_module.micro_batch,
            "optimizer": optimizer_state_by_name(trainer.optimizers[0]),
        }
        self.saved = checkpoint


def end_if_asked(trainer: Trainer) -> None:
    """End in all processes of the fit where one of them was asked to.

    Raises:
        PreemptedError: one was.
    """
    if trainer.strategy.reduce_boolean_decision(asked(), all=False):
        raise PreemptedError


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
