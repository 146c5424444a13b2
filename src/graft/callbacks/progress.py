"""A quiet progress display: one live line for a stage, one plain line when it is done."""

import sys
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from graft.module import GraftModule


class StageProgress(Callback):
    """Shows the epochs of a stage as a bar that vanishes when the fit ends; silent where no terminal listens."""

    def __init__(self, title: str, total_epochs: int) -> None:
        self.title = title
        self.total_epochs = total_epochs
        self._progress: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar, on the first process alone."""
        assert isinstance(pl_module, GraftModule)
        if not (trainer.is_global_zero and sys.stderr.isatty()):
            return
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            TextColumn("{task.fields[phase]:<16}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[metrics]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(
            self.title,
            total=self.total_epochs,
            completed=pl_module.stage_epoch,
            phase=pl_module.phase.name,
            metrics="",
        )
        self._progress.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One epoch further."""
        assert isinstance(pl_module, GraftModule)
        if self._progress is None:
            return
        self._progress.update(
            self._task, completed=pl_module.stage_epoch + 1, metrics=describe(pl_module.epoch_metrics)
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar before the error is shown."""
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def describe(metrics: dict[str, Any]) -> str:
    """The epoch's metrics in a few words: `loss 0.213  val 0.914`."""
    words = []
    if "train/loss" in metrics:
        words.append(f"loss {metrics['train/loss']:.3f}")
    if "val/accuracy" in metrics:
        words.append(f"val {metrics['val/accuracy']:.3f}")
    return "  ".join(words)
