"""A quiet progress display: one live line for a stage, one plain line when it is done."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from graft.module import GraftModule

EVERY = 1.0  # seconds from one note of a job to the next at least


class StageProgress(Callback):
    """Shows the epochs of a stage as a bar that vanishes when the fit ends; silent where no terminal listens."""

    def __init__(self, title: str, total_epochs: int) -> None:
        self.title = title
        self.total_epochs = total_epochs
        self._progress: Progress | None = None
        self._job: JobProgress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar, on the first process alone."""
        assert isinstance(pl_module, GraftModule)
        self._job = next((each for each in trainer.callbacks if isinstance(each, JobProgress)), None)  # type: ignore[attr-defined]
        if self._job is not None or not (trainer.is_global_zero and sys.stderr.isatty()):
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
        epoch, metrics = pl_module.stage_epoch + 1, pl_module.epoch_metrics
        if self._job is not None and trainer.is_global_zero:
            position = f"{self.title}, {pl_module.phase.name}: {epoch}/{self.total_epochs} epochs"
            self._job.note(f"{position}  {describe(metrics)}".rstrip())
        if self._progress is not None:
            self._progress.update(self._task, completed=epoch, metrics=describe(metrics))

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


class JobProgress(Callback):
    """In one of several jobs: writes down how far it is, in place of a bar, and lets the job be stopped.

    Args:
        path: the file that holds a line on how far the job is, written once a second at most.
        shall_stop: asked at the start of every epoch, when the one before has been saved.
    """

    def __init__(self, path: Path, shall_stop: Callable[[], bool]) -> None:
        self.path = path
        self.shall_stop = shall_stop
        self._noted_at = -EVERY

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where that was asked for, in all processes of the fit.

        Raises:
            KeyboardInterrupt: it was.
        """
        if trainer.strategy.reduce_boolean_decision(self.shall_stop(), all=False):
            raise KeyboardInterrupt

    def note(self, line: str) -> None:
        """Write the line down, unless that was done a moment ago."""
        if time.monotonic() >= self._noted_at + EVERY:
            self._noted_at = time.monotonic()
            with suppress(OSError):  # a disk that is full ends the job elsewhere, in words
                self.path.write_text(line, encoding="utf-8")


def describe(metrics: dict[str, Any]) -> str:
    """The epoch's metrics in a few words: `loss 0.213  val 0.914`."""
    words = []
    if "train/loss" in metrics:
        words.append(f"loss {metrics['train/loss']:.3f}")
    if "val/accuracy" in metrics:
        words.append(f"val {metrics['val/accuracy']:.3f}")
    return "  ".join(words)
