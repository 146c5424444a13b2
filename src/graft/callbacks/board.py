"""What TensorBoard shows of a stage."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from graft.batch import LabelledBatch
from graft.callbacks.loggers import show_picture
from graft.callbacks.pictures import groups_picture, lettering, reliability_picture
from graft.data.domain import Domain
from graft.module import GraftModule

MOST_SAMPLES, MOST_SAMPLE_PIXELS = 16, 2**18  # of the training views that are shown; PNG takes a while to write
MOST_WITH_COUNTS, MOST_WITH_NAMES = 20, 40  # classes of a confusion matrix whose cells or edges are lettered
CURVES = ("train/accuracy", "train/loss", "val/accuracy", "val/loss")
LAYOUT = {  # of TensorBoard's custom scalars: title -> chart -> tags as regular expressions
    quantity: {
        f"{quantity}: training and validation": ["Multiline", [f"^(train|val)/{quantity}$"]],
        f"{quantity}: transfer and baselines": ["Multiline", [f"^val/{quantity}$", f"^baseline/.+/val/{quantity}$"]],
    }
    for quantity in ("accuracy", "loss")
}
WHITE, BLUE = np.array([255, 255, 255]), np.array([8, 48, 107])


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
    """Show what the network sees of a few training samples, each stretched to its own brightest and darkest value.

    Nothing where that are no images.
    """
    assert domain.preprocessing is not None
    if not isinstance(logger, TensorBoardLogger) or len(domain.preprocessing.shape) != 3:
        return
    num_samples = min(MOST_SAMPLES, max(2, MOST_SAMPLE_PIXELS // domain.preprocessing.size**2))
    batch = next(iter(domain.loader("train")))
    few = LabelledBatch(batch.x[:num_samples], batch.y[:num_samples], batch.positions[:num_samples])
    views = domain.view.train(few, torch.Generator().manual_seed(seed)).x.float()
    low, high = views.amin(dim=(1, 2, 3), keepdim=True), views.amax(dim=(1, 2, 3), keepdim=True)
    logger.experiment.add_images("training views", (views - low) / (high - low).clamp_min(1e-6), 0)


def log_search(logger: Logger, search: Mapping[str, Any]) -> None:
    """Show the curve of a range test, rate and loss against the test's own steps; nothing where there was none."""
    for step, (rate, loss) in enumerate(zip(search.get("rates", ()), search.get("losses", ()), strict=True)):
        logger.log_metrics({"range test/lr": rate, "range test/loss": loss}, step=step)


def confusion_picture(confusion: list[list[int]], class_names: tuple[str, ...]) -> np.ndarray:
    """A confusion matrix as uint8 [h, w, 3]: rows are labels, columns predictions, shares of a row in colour.

    Drawn by hand, since Matplotlib takes longer than a short fit.
    """
    counts = np.array(confusion)
    num_classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4, min(36, 720 // num_classes))  # pixels of a cell
    colours = (WHITE + shares[:, :, None] * (BLUE - WHITE)).round().astype(np.uint8)
    matrix = Image.fromarray(colours.repeat(side, axis=0).repeat(side, axis=1))
    font = lettering()
    if num_classes <= MOST_WITH_COUNTS:
        draw = ImageDraw.Draw(matrix)
        for row, column in np.argwhere(counts).tolist():
            place = ((column + 0.5) * side, (row + 0.5) * side)
            colour = "white" if shares[row, column] > 0.5 else "black"
            draw.text(place, str(confusion[row][column]), fill=colour, font=font, anchor="mm")
    names = class_names if num_classes <= MOST_WITH_NAMES else ("",) * num_classes
    labels = named_edge(names, side, "label", Image.Transpose.ROTATE_90, font)
    predictions = named_edge(names, side, "predicted", Image.Transpose.ROTATE_270, font)  # turned upright below
    picture = Image.new("RGB", (labels.width + matrix.width, matrix.height + predictions.width), "white")
    picture.paste(labels, (0, 0))
    picture.paste(matrix, (labels.width, 0))
    picture.paste(predictions.transpose(Image.Transpose.ROTATE_90), (labels.width, matrix.height))
    return np.asarray(picture)


def named_edge(
    names: tuple[str, ...], side: int, title: str, turn: Image.Transpose, font: ImageFont.FreeTypeFont
) -> Image.Image:
    """The left edge of a matrix: a title along it, turned, and a name for each row, which is `side` pixels high."""
    width = 24 + max(int(font.getlength(name)) for name in names)
    edge = Image.new("RGB", (width, side * len(names)), "white")
    draw = ImageDraw.Draw(edge)
    for row, name in enumerate(names):
        draw.text((width - 4, (row + 0.5) * side), name, fill="black", font=font, anchor="rm")
    along = Image.new("RGB", (edge.height, 16), "white")
    ImageDraw.Draw(along).text((edge.height / 2, 8), title, fill="black", font=font, anchor="mm")
    edge.paste(along.transpose(turn), (0, 0))
    return edge


def log_baselines(logger: Logger, baselines: Mapping[str, Mapping[str, Any]]) -> None:
    """Log each baseline's curves beside the run's own, also where the baseline was trained by an earlier run."""
    for name, baseline in baselines.items():
        for row in baseline["history"]:
            curves = {f"baseline/{name}/{tag}": row[tag] for tag in CURVES if row.get(tag) is not None}
            logger.log_metrics(curves, step=row["step"])


def log_curves(logger: Logger, after: Mapping[str, Mapping[str, Any]]) -> None:
    """Log each curve over alpha in [0, 1], at steps of its hundredths: `wise_ft/target/test/accuracy`."""
    for name, result in after.items():
        for row in result.get("curve", ()):
            metrics = {f"{name}/{metric}": value for metric, value in row.items() if metric != "alpha"}
            logger.log_metrics(metrics, step=round(100 * row["alpha"]))


def log_result(
    logger: Logger,
    hyperparameters: dict[str, Any],
    metrics: dict[str, float],
    record: Mapping[str, Any],
    confusion: np.ndarray,
) -> None:
    """Log the run's settings with its real final metrics (TensorBoard's HPARAMS), and the pictures of its record.

    `confusion` is the picture of its confusion matrix.
    """
    if isinstance(logger, TensorBoardLogger):
        logger.log_hyperparams(hyperparameters, metrics)
        logger.experiment.add_custom_scalars(LAYOUT)
    else:
        logger.log_hyperparams(hyperparameters)
        logger.log_metrics(metrics)
    for tag, picture in ({"target/test/confusion": confusion} | result_pictures(record)).items():
        show_picture(logger, tag, picture)
    for step, row in enumerate(groups_of(record).values()):
        shown = {f"transferred/{name}": row[name] for name in ("moved_relative", "cka") if row[name] is not None}
        logger.log_metrics(shown, step=step)
    logger.finalize("success")


def result_pictures(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Reliability diagrams, and how the layer groups changed, each by its tag."""
    groups = groups_of(record)
    networks = {record["strategy"]: record} | record["baselines"]
    bins = {name: network["reliability"] for name, network in networks.items() if network["reliability"]}
    pictures = {"target/test/reliability": reliability_picture(bins)}
    return pictures | ({"transferred/layer groups": groups_picture(groups)} if groups else {})


def groups_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The layer groups and how they changed; none where transfer began from scratch."""
    groups: Mapping[str, Any] = record["transferred"].get("groups", {})
    return groups
