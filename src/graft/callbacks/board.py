"""What TensorBoard shows of a stage."""

from typing import Any

import torch
from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from graft.batch import LabelledBatch
from graft.data.domain import Domain
from graft.module import GraftModule

NUM_SAMPLE_IMAGES = 16


class StageLogger(Callback):
    """Logs metrics and learning rates at the stage's own step, and marks where a phase begins."""

    def __init__(self, steps_before: int) -> None:
        self.steps_before = steps_before

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the thaw: which groups train from this step on."""
        assert isinstance(pl_module, GraftModule)
        names = ", ".join(sorted({str(group["name"]) for group in trainer.optimizers[0].param_groups}))
        for logger in trainer.loggers:
            logger.log_metrics({"phase": float(pl_module.phase.index)}, step=self.steps_before)
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("thawed", f"**{pl_module.phase.name}**: {names}", self.steps_before)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: LabelledBatch, batch_idx: int
    ) -> None:
        """Log the step's loss every `log_every_n_steps`."""
        assert isinstance(pl_module, GraftModule)
        step = self.steps_before + trainer.global_step
        if trainer.loggers and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            for logger in trainer.loggers:
                logger.log_metrics({"train/step_loss": float(outputs["loss"])}, step=step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's metrics and the learning rate of every named group."""
        assert isinstance(pl_module, GraftModule)
        step = self.steps_before + trainer.global_step
        rates = {f"lr/{group['name']}": group["lr"] for group in trainer.optimizers[0].param_groups}
        for logger in trainer.loggers:
            logger.log_metrics(pl_module.epoch_metrics | rates, step=step)


def log_views(logger: Logger, domain: Domain, seed: int) -> None:
    """Show what the network sees of a few training images, each stretched to its own brightest and darkest value."""
    if not isinstance(logger, TensorBoardLogger):
        return
    batch = next(iter(domain.loader("train")))
    few = LabelledBatch(*(tensor[:NUM_SAMPLE_IMAGES] for tensor in batch))
    views = domain.view.train(few, torch.Generator().manual_seed(seed)).x.float()
    low, high = views.amin(dim=(1, 2, 3), keepdim=True), views.amax(dim=(1, 2, 3), keepdim=True)
    logger.experiment.add_images("training views", (views - low) / (high - low).clamp_min(1e-6), 0)


def confusion_figure(confusion: list[list[int]], class_names: tuple[str, ...]) -> Figure:
    """A confusion matrix as a picture: rows are labels, columns predictions, shares of a row in colour."""
    counts = torch.tensor(confusion, dtype=torch.float32)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp_min(1)
    side = min(12.0, 3.0 + 0.35 * len(class_names))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="label")
    if len(class_names) <= 40:
        axes.set_xticks(range(len(class_names)), class_names, rotation=90)
        axes.set_yticks(range(len(class_names)), class_names)
    if len(class_names) <= 20:
        for row, column in torch.nonzero(counts).tolist():
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row][column]), ha="center", va="center", color=colour, fontsize=7)
    return figure


def log_result(
    logger: Logger,
    hyperparameters: dict[str, Any],
    metrics: dict[str, float],
    confusion: list[list[int]],
    class_names: tuple[str, ...],
) -> None:
    """Log the run's settings with its real final metrics (TensorBoard's HPARAMS), and its confusion matrix."""
    if isinstance(logger, TensorBoardLogger):
        logger.log_hyperparams(hyperparameters, metrics)
        logger.experiment.add_figure("target/test/confusion", confusion_figure(confusion, class_names), 0)
    else:
        logger.log_hyperparams(hyperparameters)
        logger.log_metrics(metrics)
    logger.finalize("success")
