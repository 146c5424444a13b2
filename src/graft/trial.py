"""A few steps of one phase, tried on a small part of a domain, timed, weighed and thrown away."""

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from graft.batch import in_dtype
from graft.data.datasets import LabelledImages
from graft.data.domain import Domain
from graft.models.network import Network
from graft.stage import MEMORY_FORMATS, Position, Stage, begin_regularisation, cut_of, fit_phase, snapshot
from graft.strategies.engine import apply_phase
from graft.strategies.phases import ResolvedPhase

NUM_BATCHES = 2  # of each trial epoch, of which there are two: the first warms up
TRIAL_SECONDS = 8.0  # after so long, phases that are left are taken to be as slow as the slowest that was tried


@dataclass(frozen=True)
class Times:
    """Seconds that parts of a phase take."""

    step: float  # a batch of training, loading included
    validation: float  # a batch of validation
    epoch: float  # what an epoch takes beside its batches: checkpoint, logs
    inference: float  # one image through the backbone, without gradients
    from_features: bool = False  # every image goes through the frozen part once, before the first epoch


@dataclass(frozen=True)
class Memory:
    """Bytes at the fullest moment of a training step."""

    parameters: int  # buffers too
    gradients: int
    optimizer: int  # its slots, measured
    activations: int  # what autograd keeps of one batch, measured

    @property
    def total(self) -> int:
        """All together; workspaces of kernels and the data come on top."""
        return self.parameters + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Trial:
    """What the trial of one phase came to."""

    times: Times
    memory: Memory


def small_part(domain: Domain) -> Domain:
    """The same domain with a few batches in each split, under a fingerprint that is nobody else's."""
    part = copy.copy(domain)
    few = NUM_BATCHES * domain.batch_size
    part.datasets = {name: first_of(dataset, few) for name, dataset in domain.datasets.items()}
    part.sizes = {name: len(dataset) for name, dataset in part.datasets.items()}
    part.pool = first_of(domain.pool, few)
    part.fingerprint = f"trial of {domain.fingerprint}"
    return part


def first_of(dataset: LabelledImages, num: int) -> LabelledImages:
    """The first samples of a split."""
    return LabelledImages(dataset.images, dataset.positions[:num], dataset.labels[:num])


class Patient:
    """Tries phases until `TRIAL_SECONDS` are spent; what comes later is as slow as the slowest was."""

    def __init__(self) -> None:
        self.spent = 0.0
        self.slowest: Trial | None = None

    def __call__(self, stage: Stage, network: Network, phase: ResolvedPhase) -> Trial:
        """One trial, or the slowest of those before."""
        if self.slowest is not None and self.spent > TRIAL_SECONDS:
            return self.slowest
        started = time.monotonic()
        trial = measure_phase(stage, network, phase)
        self.spent += time.monotonic() - started
        if self.slowest is None or trial.times.step > self.slowest.times.step:
            self.slowest = trial
        return trial


def measure_phase(stage: Stage, network: Network, phase: ResolvedPhase) -> Trial:
    """Fit two short epochs of one phase, as a run would, and time the second."""
    network.to(memory_format=MEMORY_FORMATS[stage.training.memory_format])
    apply_phase(network, phase)
    inference = seconds_per_image(network, stage.domain, stage.training.device)
    sizes = Memory(num_bytes([*network.parameters(), *network.buffers()]), 0, 0, 0)
    if not phase.trained_names:
        return Trial(Times(0.0, 0.0, 0.0, inference), sizes)
    watch = Watch()
    trainer = partial(
        stage.training.trainer, devices=1, strategy="auto", limit_train_batches=1.0, limit_val_batches=1.0
    )
    callbacks = partial(with_watch, stage.training.callbacks, watch)
    short = replace(phase, index=0, first_epoch=0, max_epochs=2, plateau=None)
    tried = replace(stage, training=replace(stage.training, trainer=trainer, callbacks=callbacks))
    position = Position(snapshot(network))
    position.regularisation = begin_regularisation(tried, network, position)
    fit_phase(tried, network, (short,), 0, [], position)
    trained = [p for name, _, p in network.named_group_parameters() if name in phase.trained_names]
    memory = replace(sizes, gradients=num_bytes(trained), optimizer=watch.slots, activations=watch.activations)
    return Trial(watch.times(inference), memory)


def with_watch(callbacks: Callable[[], list[Callback]], watch: "Watch") -> list[Callback]:
    """The user's callbacks and ours."""
    return [*callbacks(), watch]


@torch.no_grad()
def seconds_per_image(network: Network, domain: Domain, device: torch.device) -> float:
    """Seconds that the backbone takes for one image without gradients, after a first batch that warms up."""
    network.to(device)
    domain.begin(seed=0, first_epoch=0, augment=False)
    took = []
    for batch in [*domain.loader("train")] * 2:
        started = time.monotonic()
        network.backbone(in_dtype(domain.view.evaluate(batch.x.to(device)), network.dtype)).float().cpu()
        took.append((time.monotonic() - started) / len(batch.x))
    return median(took[1:])


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Memory that tensors take."""
    return sum(tensor.nbytes for tensor in tensors)


@dataclass
class Watch(Callback):
    """Notes when batches and epochs end, and what training keeps in memory."""

    batches: list[float] = field(default_factory=list)  # seconds between the ends of training batches of an epoch
    validations: list[float] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)
    slots: int = 0
    activations: int = 0
    epoch_began: float = 0.0
    from_features: bool = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch begins where the one before ended, its checkpoint written."""
        now = time.monotonic()
        if trainer.current_epoch:
            self.epochs.append(now - self.epoch_began)
        self.epoch_began = self.last = now

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Weigh what the first batch leaves for the way back."""
        if trainer.current_epoch == 0 and batch_idx == 0:
            self.kept: dict[int, int] = {}
            self.weighing = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
            self.weighing.__enter__()

    def _keep(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            self.kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One batch more; what the first one kept for its way back is all known by then."""
        if trainer.current_epoch == 0 and batch_idx == 0:
            self.weighing.__exit__(None, None, None)
            self.activations = sum(self.kept.values())
        float(outputs["loss"])  # waits for the device
        now = time.monotonic()
        self.batches.append(now - self.last)
        self.last = now

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Validation begins."""
        self.validation_began = time.monotonic()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        """One batch more."""
        self.validations.append(time.monotonic() - self.validation_began)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimiser has all its slots, and the second epoch is over."""
        states = trainer.optimizers[0].state.values()
        self.slots = num_bytes(slot for state in states for slot in state.values() if isinstance(slot, Tensor))
        self.epochs.append(time.monotonic() - self.epoch_began)
        self.from_features = cut_of(trainer.datamodule) > 0  # type: ignore[attr-defined]

    def times(self, inference: float) -> Times:
        """What the second epoch took; the first warmed up."""
        half = len(self.batches) // 2
        step = median(self.batches[half:])
        validation = median(self.validations[len(self.validations) // 2 :]) if self.validations else 0.0
        spent = sum(self.batches[half:]) + sum(self.validations[len(self.validations) // 2 :])
        return Times(step, validation, max(0.0, self.epochs[-1] - spent), inference, self.from_features)
