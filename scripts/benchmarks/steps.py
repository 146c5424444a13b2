"""Cost of a training step above a bare PyTorch loop: stock Lightning in three states of dress, and graft."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from harness import Repetition, Row, share
from parts import fit, new_network, on_a_terminal, random_domain, ready_batches, seconds_per_epoch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from graft.data.preprocessing import Preprocessing
from graft.models.backbones.base import Overrides, SequentialBackbone
from graft.models.backbones.cnn import Cnn
from graft.module import num_correct

BATCH_SIZE = 128
NUM_EPOCHS = 2  # the first warms up
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
FUSED = partial(SGD, fused=True)  # as conf/optimizer has it
BARE, STOCK, METRICS, OFF, GRAFT, CONTIGUOUS = (
    "bare loop",
    "Lightning as it comes",
    "Lightning, two metrics a step",
    "Lightning, all off",
    "graft, all on",
    "graft, all on, contiguous",
)
Batches = Sequence[tuple[Tensor, Tensor]]


class Toy(SequentialBackbone):
    """A layer of 32 units on 8 x 8 grey images: with its head two layers that take next to no time."""

    def __init__(self) -> None:
        groups = {"stem": nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())}
        preprocessing = Preprocessing(size=8, mean=(0.5,), std=(0.5,))
        super().__init__(groups, 32, preprocessing, Overrides())
        self.name = "toy"


class Stock(LightningModule):
    """The usual module of a Lightning tutorial."""

    def __init__(self, network: nn.Module, metrics: bool) -> None:
        super().__init__()
        self.network = network
        self.metrics = metrics

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.network(x)
        loss = cross_entropy(logits, y)
        if self.metrics:
            self.log("loss", loss, on_step=True, prog_bar=True)
            self.log("accuracy", num_correct(logits.detach(), y) / len(y), on_step=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return SGD(self.parameters())


class Clock(Callback):
    """Notes when epochs end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends.append(perf_counter())


def bare(network: nn.Module, batches: Batches) -> float:
    """Seconds a step of the loop that one would write by hand."""
    optimizer = SGD(network.parameters())
    network.train()
    ends = []
    for _ in range(NUM_EPOCHS):
        for x, y in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
        ends.append(perf_counter())
    return per_step(ends, batches)


def lightning(network: nn.Module, batches: Batches, folder: Path, metrics: bool = False, **settings: Any) -> float:
    """Seconds a step under Lightning's trainer, given the same batches ready made."""
    clock = Clock()
    with on_a_terminal():
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=NUM_EPOCHS,
            callbacks=[clock],
            default_root_dir=folder,
            enable_model_summary=False,
            **settings,
        )
        trainer.fit(Stock(network, metrics), DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return per_step(clock.ends, batches)


def per_step(ends: Sequence[float], batches: Batches) -> float:
    """Seconds a step, from the second epoch on."""
    return (ends[-1] - ends[0]) / (len(ends) - 1) / len(batches)


def prepare(backbone: type[Toy] | type[Cnn], num_steps: int, folder: Path) -> Repetition:
    """All sides on the same images; the peers get them as float batches, graft as a domain of uint8 images."""
    preprocessing = backbone().preprocessing
    domain = random_domain(folder, BATCH_SIZE * num_steps, preprocessing.size, preprocessing, BATCH_SIZE)
    batches = ready_batches(domain)
    off = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}

    def repetition() -> dict[str, float]:
        fitted, contiguous = (
            fit(new_network(backbone), domain, "fine_tune", NUM_EPOCHS, FUSED, folder, memory_format=memory_format)
            for memory_format in ("channels_last", "contiguous")
        )
        return {
            BARE: bare(new_network(backbone), batches),
            STOCK: lightning(new_network(backbone), batches, folder),
            METRICS: lightning(new_network(backbone), batches, folder, metrics=True),
            OFF: lightning(new_network(backbone), batches, folder, **off),
            GRAFT: seconds_per_epoch(fitted) / len(batches),
            CONTIGUOUS: seconds_per_epoch(contiguous) / len(batches),
        }

    return repetition


def prepare_toy(quick: bool, folder: Path) -> Repetition:
    """Epochs of a thousand steps, so that what happens once an epoch weighs as it does in earnest."""
    return prepare(Toy, 200 if quick else 1000, folder)


def prepare_cnn(quick: bool, folder: Path) -> Repetition:
    """The network of the default experiment."""
    return prepare(Cnn, 30 if quick else 200, folder)


ROWS = (
    Row(
        "toy",
        "training step of a two-layer toy, batch 128",
        "s",
        prepare_toy,
        (share(GRAFT, BARE, at_most=2.4),),
        "graft also normalises uint8 images and measures accuracy in each step; the peers get float tensors",
        quick_repeats=3,
    ),
    Row(
        "cnn",
        "training step of the cnn, batch 128, 32x32",
        "s",
        prepare_cnn,
        (share(GRAFT, BARE, at_most=1.05),),
        "channels_last, the default, is the faster here; the peers use contiguous weights, as PyTorch comes",
        quick_repeats=3,
    ),
)
