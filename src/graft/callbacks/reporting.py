"""Telling somebody outside the run how each epoch went, who may end the run there."""

from typing import Protocol

from pytorch_lightning import Callback, LightningModule, Trainer

from graft.errors import PrunedError
from graft.module import GraftModule


class Report(Protocol):
    """Whoever follows a run; it must be possible to send it to another process."""

    @property
    def metric(self) -> str:
        """Which metric of an epoch it wants to know, such as `val/accuracy`."""

    def __call__(self, epoch: int, value: float) -> bool:
        """Take the metric after an epoch, counted from 1; True where the run shall end there."""


class EpochReports(Callback):
    """Reports each epoch of a stage; every process of the run hears the answer."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch.

        Raises:
            PrunedError: the run shall end here.
        """
        assert isinstance(pl_module, GraftModule)
        epoch, value = pl_module.stage_epoch + 1, pl_module.epoch_metrics.get(self.report.metric)
        if value is None:  # there is nothing to validate on
            return
        ends = trainer.strategy.broadcast(trainer.is_global_zero and self.report(epoch, value))
        if ends:
            raise PrunedError(epoch, self.report.metric, value)
