"""One experiment, composed and validated, before anything runs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from pytorch_lightning import Callback, Trainer
from torch.optim import Optimizer

from graft.adaptation.base import Adaptation
from graft.adaptation.selection import Selection
from graft.callbacks.loggers import Maker, StageLoggers
from graft.data.domain import Domain
from graft.models.adapters.base import Adapter
from graft.models.backbones.base import Backbone
from graft.models.heads.base import Head
from graft.models.mappings.base import Mapping as FeatureMapping
from graft.models.network import Network
from graft.objectives.supervised import Objective
from graft.processes import placement
from graft.records.place import Place
from graft.regularisers.base import Regulariser
from graft.strategies.phases import ResolvedPhase, Strategy
from graft.strategies.schedules import Schedule

_devices: dict[str, torch.device] = {}  # settings of a trainer -> its device; making a trainer to ask it takes a while


@dataclass(frozen=True)
class Training:
    """How one stage is trained."""

    strategy: Strategy
    objective: Objective
    optimizer: Callable[..., Optimizer]  # partial that takes parameter groups; its keywords hold lr and weight_decay
    schedule: Schedule
    trainer: Callable[..., Trainer]  # partial of Trainer; the stage adds callbacks, logger, plugins and precision
    precision: str  # one of Lightning's names, or "auto" until it is settled
    memory_format: str  # of 4-dimensional weights: "contiguous" or "channels_last", or "auto" until it is settled
    max_epochs: int
    seed: int
    callbacks: Callable[[], list[Callback]]  # fresh ones for each fit
    search: Mapping[str, Any] = field(default_factory=dict)  # how the learning rate was found where it was "auto"
    save_every: float = math.inf  # seconds between checkpoints within an epoch
    augmented_views: int = 0  # fixed ones of each image for phases that freeze a prefix and augment; 0: random ones
    regularisers: Mapping[str, Regulariser] = field(default_factory=dict)  # terms beside the objective's, by name
    adaptation: Mapping[str, Adaptation] = field(default_factory=dict)  # terms on the target's images without labels

    @property
    def terms(self) -> dict[str, Regulariser]:
        """All terms beside the objective's, by name."""
        return {**self.regularisers, **self.adaptation}

    @property
    def source_free(self) -> bool:
        """Whether it adapts without the source's images."""
        return any(method.source_free for method in self.adaptation.values())

    def phases(self, network: Network) -> tuple[ResolvedPhase, ...]:
        """The strategy's phases for a network; none where every method of adaptation does without steps."""
        if self.adaptation and not any(method.trains for method in self.adaptation.values()):
            return ()
        return self.strategy.resolve(network, self.max_epochs)

    @property
    def decaying_optimizer(self) -> Callable[..., Optimizer]:
        """The optimizer, without weight decay where a regulariser takes its place."""
        if not any(regulariser.replaces_weight_decay for regulariser in self.regularisers.values()):
            return self.optimizer
        if "weight_decay" not in getattr(self.optimizer, "keywords", {}):
            return self.optimizer
        return partial(self.optimizer, weight_decay=0.0)

    @property
    def lr(self) -> float | str:
        """The optimiser's learning rate, or "auto" until a range test has found it."""
        value: float | str = getattr(self.optimizer, "keywords", {})["lr"]
        return value

    def with_lr(self, lr: float, search: Mapping[str, Any] | None = None) -> "Training":
        """The same at another learning rate, with what is known of how it was found."""
        return replace(self, optimizer=partial(self.optimizer, lr=lr), search=search or {})

    def plain_trainer(self) -> Trainer:
        """The user's trainer without anything that shows or writes: for its device and precision."""
        return self.trainer(
            precision=self.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            **self.placement,
        )

    @property
    def placement(self) -> dict[str, Any]:
        """The arguments of a trainer that say where it fits."""
        return placement(getattr(self.trainer, "keywords", {}).get("strategy", "auto"))

    @property
    def device(self) -> torch.device:
        """The device that the trainer's main process uses."""
        settings = repr(self.trainer)
        if settings not in _devices:
            trainer = replace(self, precision="32").plain_trainer()
            _devices[settings] = torch.device(trainer.strategy.root_device)
        return _devices[settings]


class AfterMethod(Protocol):
    """One file of `conf/after`; `graft.after` holds them."""

    @property
    def needs_val(self) -> bool:
        """Whether it decides by the target's val split."""

    @property
    def needs_start(self) -> bool:
        """Whether it goes back to the weights that the training of the backbone began with."""

    def check(self, network: Network) -> None:
        """Refuse a network that it makes no sense for.

        Raises:
            UserError: with the reason.
        """

    def __call__(self, finished: Any) -> dict[str, Any]:
        """What the record says of it, from a `graft.after.base.Finished`: `metrics`, and whatever was chosen.

        The network is left as it was.
        """


@dataclass(frozen=True)
class FeaturePlots:
    """How features of both domains are looked at."""

    num_images: int  # half of each domain; 0: they are not
    every: int  # epochs between looks; 0: only where transfer begins and where it ends
    projection: str  # what the plane is found by: "pca" or "tsne"


@dataclass(frozen=True)
class Experiment:
    """Everything the pipeline needs. Factories, not networks: each stage builds its own from its own seed."""

    name: str
    seed: int
    source: Domain | None
    target: Domain
    backbone: Callable[[], Backbone]
    weights: str  # "source", a torchvision weights name, a file, or an earlier run's folder
    reinitialise: tuple[str, ...]  # patterns of the parameters that the weights need not provide
    mapping: Callable[[int], FeatureMapping]  # num_features -> mapping
    adapter: Adapter | None  # of the target network's backbone; None: its own weights are trained
    head: Callable[[int, int], Head]  # num_features, num_classes -> head
    pretrain: Training
    transfer: Training
    baselines: Mapping[str, Strategy]  # strategies trained on the same target, labels and budget, for comparison
    after: Mapping[str, AfterMethod]  # what is done once the target stage is over
    selection: Selection  # the rule behind the headline figures, and those that are shown beside it
    loggers: Mapping[str, Maker]  # what makes the loggers of a stage, by name
    store: Path
    features_limit: int  # bytes that outputs of frozen parts may take in the store; 0: none are kept
    cka_images: int  # of the target, on which the layer groups' outputs before and after are compared; 0: they are not
    feature_plots: FeaturePlots
    projector_images: int  # of the target's test split that TensorBoard's projector shows; 0: none
    config: dict[str, Any]  # plain and resolved, as it goes into the record
    place: Place | None = None  # where loggers write; None: the run's own folder
    log: StageLoggers | None = None  # while the run goes on; None: nothing is logged

    @property
    def adapts(self) -> bool:
        """Whether the target stage adapts to images without labels, beside the source's with theirs."""
        return bool(self.transfer.adaptation)
