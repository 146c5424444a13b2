"""One stage: a network trained on a domain, phase by phase, able to go on where it was cut off."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities import registry
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor

from graft.adaptation.evidence import Judge
from graft.adaptation.selection import Selection
from graft.adapting import AdaptationModule
from graft.averaging import State
from graft.callbacks.board import StageLogger, log_search, log_views
from graft.callbacks.candidates import Candidates
from graft.callbacks.checkpoints import (
    BEST,
    BEST_OF_PHASE,
    LAST,
    AtomicCheckpointIO,
    StageCheckpoint,
    best_epoch,
    network_state,
    read_checkpoint,
    read_last_checkpoint,
)
from graft.callbacks.choices import Choice, label_free_choices
from graft.callbacks.finite import FiniteLoss, name_images
from graft.callbacks.progress import StageProgress
from graft.data.datasets import Done
from graft.data.domain import Domain
from graft.data.paired import PairedData
from graft.epoch_loop import use_epoch_loop
from graft.errors import UserError
from graft.evaluation import evaluate
from graft.experiment import Training
from graft.features import FeatureCache, FeatureDomain, Inference, Prefix, Samples, extract
from graft.gradients import relative_gradient_norms
from graft.models.adapters.base import companion_of
from graft.models.network import Network
from graft.module import GraftModule, Span
from graft.preemption import deferred
from graft.recalibration import recalibrate
from graft.records.files import atomic_write_json, read_json
from graft.regularisers.base import PREFIX as REGULARISATION
from graft.regularisers.base import Beginning, Origin, Regularisation, frozen_copy
from graft.regularisers.sam import SAM
from graft.seeds import stable_seed
from graft.sharpness import SharpnessAwareModule
from graft.strategies.engine import apply_phase, frozen_prefix, moved_groups, untouched_names
from graft.strategies.phases import ResolvedPhase, replan

Data = Domain | FeatureDomain | PairedData

MONITOR = "val/accuracy"
START = "start.ckpt"  # the network where the training of its backbone began
GROUPS = "groups.json"  # the layer groups that `groups: auto` was found to stand for
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# What Lightning says at the start of every fit and is meant to be so here, with the reason.
EXPECTED_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own, on recent versions of torch
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen parts are
    r"The '.*_dataloader' does not have many workers",  # data in memory is fastest without
    r"The number of training batches .* is smaller than the logging interval",
    r"Total length of `list` across ranks is zero",  # val_fraction=0: there is nothing to validate on
    r"You're resuming from a checkpoint that ended before the epoch ended",
)


@dataclass(frozen=True)
class Stage:
    """What is trained on what, and where its traces go."""

    name: str
    key: str  # content hash of everything that decides the resulting weights
    training: Training
    domain: Domain
    source: Domain | None  # for mappings that are solved from both domains
    seed: int
    folder: Path
    loggers: Sequence[Logger]
    cache: FeatureCache | None  # None: images go through frozen parts in every epoch
    origin: Origin | None = None  # the source stage, for regularisers; None where the weights come from elsewhere
    unlabelled: Domain | None = None  # a target that is adapted to, with few labels or none; `domain` is the source
    keep_start: bool = False  # leave the network as it was where the training of its backbone began
    selection: Selection | None = None  # how epochs are scored without labels of the target; None: they are not


@dataclass(frozen=True)
class Fitted:
    """What a stage arrived at."""

    last: State  # the network's state after the last epoch
    best: State  # ... after the epoch with the best validation accuracy
    history: list[dict[str, Any]]  # one row an epoch
    trainable_parameters: int  # the most that any phase trained
    solving_seconds: float  # outside epochs: `groups: auto`, closed forms, norm statistics, regularisers
    chosen: dict[str, Any] = field(default_factory=dict)  # what `groups: auto` was found to stand for, and why
    label_free: dict[str, Choice] = field(default_factory=dict)  # by the name of the rule
    micro_batch: int | None = None  # samples that went through the network at once, where a batch did not fit

    @property
    def choices(self) -> dict[str, Choice]:
        """What each selection rule chose, by its name."""
        epochs = [(row["epoch"], row.get(MONITOR)) for row in self.history] or [(0, None)]
        (best,) = (choice for choice in epochs if choice[0] == self.best_epoch)
        return {
            "last": Choice(epochs[-1][0], None, lambda: self.last),
            "best_val": Choice(*best, lambda: self.best),
            **self.label_free,
        }

    @property
    def best_epoch(self) -> int:
        """The epoch `best` is from; 0 where nothing was stepped."""
        return best_epoch(self.history, MONITOR) if self.history else 0

    @property
    def seconds(self) -> float:
        """Seconds from the first look at the data to the final weights: caching, epochs, validation, closed forms."""
        return self.solving_seconds + (float(self.history[-1]["seconds"]) if self.history else 0.0)

    @property
    def steps(self) -> int:
        """Optimiser steps taken."""
        return int(self.history[-1]["step"]) if self.history else 0


@dataclass
class Position:
    """How far a stage has come."""

    start: State  # the network's state when the stage began
    phase_index: int = 0
    history: list[dict[str, Any]] | None = None
    optimizer: dict[str, Any] | None = None
    checkpoint: Path | None = None  # to go on from in the middle of the phase
    within: dict[str, Any] | None = None  # how far it is in the middle of an epoch
    regularisation: Regularisation | None = None
    micro_batch: int | None = None  # to go on with, where a batch did not fit into memory


@dataclass
class Stopwatch:
    """Adds up the seconds spent in its `with` blocks."""

    seconds: float = 0.0

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._started


def fit_stage(stage: Stage, network: Network) -> Fitted:
    """Train `network` in place, from the start or from the stage's last checkpoint."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    stage, chosen, choosing_seconds = settle_groups(stage, network)
    training = stage.training
    phases = training.phases(network)
    position = find_position(stage, network)
    history = position.history or []
    network.to(memory_format=MEMORY_FORMATS[training.memory_format])
    solving = Stopwatch(choosing_seconds)
    if any(phase.trained_names for phase in phases):
        with solving:
            position.regularisation = begin_regularisation(stage, network, position)
    if not history:
        for logger in stage.loggers:
            log_views(logger, stage.domain, stage.seed)
            log_search(logger, training.search)
    for index in range(position.phase_index, len(phases)):
        phases = replan(phases, index, num_epochs_before(history, index))
        apply_phase(network, phases[index])
        if position.checkpoint is None:
            if phases[index].start_from == "best":
                go_back_to_best(stage, network, index - 1, position)
            with solving:
                prepare_phase(stage, network, phases[index])
            if stage.keep_start and index == first_of_backbone(phases):
                write_start(stage, network)
        if phases[index].trained_names and phases[index].max_epochs > 0:
            history, position.optimizer = fit_phase(stage, network, phases, index, history, position)
        position.checkpoint = position.within = None
    last = snapshot(network)
    best = best_state(stage, position.start, history) or last
    if closed_form_parts(network) and any(trains_backbone(phase) for phase in phases):
        with solving:
            last, best = (resolve_state(stage, network, state) for state in (last, best))
    if stage.unlabelled is not None:
        with solving:
            finished = finish_adaptation(stage, network, last)
            best = finished if best is last else finish_adaptation(stage, network, best)
            last = finished
    network.load_state_dict(last)
    trainable_parameters = max((num_trained(network, phase) for phase in phases), default=0)
    finish = partial(finish_adaptation, stage, network)
    label_free = label_free_choices(stage.folder, stage.key, history, position.start, last, finish)
    seconds, micro_batch = solving.seconds, position.micro_batch
    return Fitted(last, best, history, trainable_parameters, seconds, chosen, label_free, micro_batch)


def prepare_phase(stage: Stage, network: Network, phase: ResolvedPhase) -> None:
    """Norm statistics and closed forms as the phase begins with them."""
    if phase.recalibrate:
        how = stage_inference(stage, network)
        recalibrate(network.backbone, stage.unlabelled.with_all_images() if stage.unlabelled else stage.domain, how)
    solve_closed_form(stage, network, None if trains_backbone(phase) else stage.cache)


def settle_groups(stage: Stage, network: Network) -> tuple[Stage, dict[str, Any], float]:
    """The stage with `groups: auto` replaced by the layer group of the largest relative gradient; figures and seconds.

    Measured once, on the network that the stage starts from, and written down: a stage that goes on keeps the choice.

    Raises:
        UserError: the gradients are not finite numbers.
    """
    strategy = stage.training.strategy
    if strategy.groups != "auto":
        return stage, {}, 0.0
    path = stage.folder / GROUPS
    found = read_json(path) if path.exists() else {}
    if found.get("key") != stage.key:
        measuring = Stopwatch()
        with measuring:
            norms = measure_groups(stage, network)
        found = {"key": stage.key, "relative_gradient_norms": norms, "seconds": measuring.seconds}
        atomic_write_json(path, found)
    norms = found["relative_gradient_norms"]
    if not all(math.isfinite(norm) for norm in norms.values()):
        raise UserError(f"strategy {strategy.name!r}: groups=auto: gradients are not finite ({norms}); set groups")
    groups = [max(norms, key=norms.__getitem__)]
    training = replace(stage.training, strategy=replace(strategy, groups=groups))
    chosen = {"groups": groups, "relative_gradient_norms": norms}
    return replace(stage, training=training), chosen, found["seconds"]


def measure_groups(stage: Stage, network: Network) -> dict[str, float]:
    """The relative gradient norm of each layer group where the stage begins."""
    training = stage.training
    solve_closed_form(stage, network, stage.cache)
    how = stage_inference(stage, network)
    seed = stable_seed(stage.seed, "order")
    return relative_gradient_norms(network, stage.domain, training.objective, how, seed)


def go_back_to_best(stage: Stage, network: Network, phase_index: int, position: Position) -> None:
    """Load what the network, the optimiser and the regularisers were after the phase's best epoch, where it had one."""
    path = stage.folder / BEST_OF_PHASE.format(phase_index)
    if not path.exists():  # the phase only solved a closed form
        return
    checkpoint = read_checkpoint(path)
    if checkpoint["stage"]["key"] == stage.key:
        network.load_state_dict(position.start | network_state(checkpoint))
        position.optimizer = checkpoint["stage"]["optimizer"]
        if position.regularisation is not None:
            restore_regularisation(position.regularisation, checkpoint)


def find_position(stage: Stage, network: Network) -> Position:
    """Where the stage was left; loads the network's state of that moment. Checkpoints of another key are not used."""
    start, found = snapshot(network), read_last_checkpoint(stage.folder)
    if found is None or found[1]["stage"]["key"] != stage.key:
        return Position(start)
    path, checkpoint = found
    network.load_state_dict(start | network_state(checkpoint))
    left = checkpoint["stage"]
    if left["phase_over"]:
        position = Position(start, left["phase_index"] + 1, left["history"], left["optimizer"])
    else:
        position = Position(start, left["phase_index"], left["history"], None, path, within=left.get("within_epoch"))
    return replace(position, micro_batch=left.get("micro_batch"))


def begin_regularisation(stage: Stage, network: Network, position: Position) -> Regularisation | None:
    """The regularisers as the stage began, with what they had learned where it was left.

    None without any, where the network's adapter has no companion either.
    """
    if not stage.training.terms and companion_of(network.backbone) is None:
        return None
    how = stage_inference(stage, network)
    start = frozen_copy(network, position.start)
    kept = settled_features(stage, network)
    beginning = Beginning(
        start, stage.domain, stage.origin, how, stage.seed, stage.unlabelled, kept[1] if kept else None
    )
    regularisation = Regularisation(stage.training.terms, beginning)
    found = read_last_checkpoint(stage.folder) if position.history else None
    if found is not None:
        restore_regularisation(regularisation, found[1])
    return regularisation


def restore_regularisation(regularisation: Regularisation, checkpoint: dict[str, Any]) -> None:
    """Load what the regularisers had learned by then."""
    state = checkpoint["state_dict"].items()
    regularisation.load_state_dict(
        {name.removeprefix(REGULARISATION): t for name, t in state if name.startswith(REGULARISATION)}
    )


def fit_phase(
    stage: Stage,
    network: Network,
    phases: tuple[ResolvedPhase, ...],
    index: int,
    history: list[dict[str, Any]],
    position: Position,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Fit one phase and return the history so far and the optimiser's state by parameter name."""
    phase = phases[index]
    steps_before = history[phase.first_epoch - 1]["step"] if phase.first_epoch else 0
    untouched = untouched_names(network, phases[: index + 1])
    keep_best = index + 1 < len(phases) and phases[index + 1].start_from == "best"
    trainer = make_trainer(stage, network, phase, history, steps_before, untouched, keep_best)
    regularisation = position.regularisation
    span = schedule_span(phases, index, history)
    module, data = phase_module(stage, network, phases, index, span, trainer, regularisation)
    module.carried_state = None if phase.restart else position.optimizer
    module.micro_batch = position.micro_batch
    go_on(module, data, trainer, history, position)
    with fitting(network, regularisation), deferred():
        trainer.fit(module, datamodule=data, ckpt_path=position.checkpoint, weights_only=True)
    checkpoint = saved_checkpoint(trainer) or read_checkpoint(stage.folder / LAST)
    network.load_state_dict(position.start | network_state(checkpoint))
    if regularisation is not None:
        restore_regularisation(regularisation, checkpoint)
    position.micro_batch = checkpoint["stage"].get("micro_batch")
    return checkpoint["stage"]["history"], checkpoint["stage"]["optimizer"]


def phase_module(
    stage: Stage,
    network: Network,
    phases: tuple[ResolvedPhase, ...],
    index: int,
    span: Span,
    trainer: Trainer,
    regularisation: Regularisation | None,
) -> tuple[GraftModule, Data]:
    """What trains the phase `index`, and the data that it is trained on, set to its order and views."""
    training, phase = stage.training, phases[index]
    trainer.precision_plugin.convert_module(network)
    if regularisation is not None:
        trainer.precision_plugin.convert_module(regularisation)
        if regularisation.starting_network and moved_prefix(network, phases[: index + 1], phase):
            stage = replace(stage, cache=None)
    data = phase_data(stage, network, phase, inference(training, trainer, network))
    data.begin(stable_seed(stage.seed, "order"), phase.first_epoch, augment=phase.augment)
    module = module_class(training)(
        network,
        training.objective,
        phase,
        training.decaying_optimizer,
        training.schedule,
        data.view,
        span,
        stable_seed(stage.seed, "steps"),
        regularisation,
    )
    if isinstance(data, PairedData):
        assert isinstance(module, AdaptationModule)
        module.target_view = data.target.view
    module.cut = cut_of(data)
    module.stage_epochs = phases[-1].first_epoch + phases[-1].max_epochs
    return module, data


def go_on(module: GraftModule, data: Data, trainer: Trainer, history: list[dict[str, Any]], position: Position) -> None:
    """Set the data, the module's tally and the clock to where the phase was left."""
    num_epochs = sum(row["phase_index"] == module.phase.index for row in history)
    within = position.within
    data.go_on(Done(num_epochs, within["batches"] if within else 0))
    if within is not None:
        module.tally_so_far = within["tally"]
        checkpoint_callback(trainer).go_on(within)


def checkpoint_callback(trainer: Trainer) -> StageCheckpoint:
    """What saves the checkpoints of a fit."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(each for each in callbacks if isinstance(each, StageCheckpoint))


def saved_checkpoint(trainer: Trainer) -> dict[str, Any] | None:
    """The newest checkpoint of a fit, from memory; None where it has to be read back.

    Processes started for a fit hold the state where the one that started them may not.
    """
    return checkpoint_callback(trainer).saved if isinstance(trainer.strategy, SingleDeviceStrategy) else None


@contextmanager
def fitting(network: Network, regularisation: Regularisation | None) -> Iterator[None]:
    """The time of a fit: regularisers are attached to the network, and what Lightning always says is left out."""
    attached = regularisation.attached(network) if regularisation is not None else nullcontext()
    with warnings.catch_warnings(), attached:
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def module_class(training: Training) -> Callable[..., GraftModule]:
    """What trains a phase: with a regulariser that needs the worst point nearby, a module that goes there."""
    if training.adaptation:
        return AdaptationModule
    for regulariser in training.regularisers.values():
        if isinstance(regulariser, SAM):
            return partial(SharpnessAwareModule, rho=regulariser.rho)
    return GraftModule


def num_epochs_before(history: list[dict[str, Any]], index: int) -> int:
    """Epochs that the phases before the phase `index` took."""
    return sum(row["phase_index"] < index for row in history)


def schedule_span(phases: tuple[ResolvedPhase, ...], index: int, history: list[dict[str, Any]]) -> Span:
    """The epochs from the last restart at or before the phase to the next restart, or to the end of the stage."""
    anchor = max((phase.index for phase in phases[: index + 1] if phase.restart), default=0)
    start = num_epochs_before(history, anchor)
    stage_end = phases[-1].first_epoch + phases[-1].max_epochs
    end = next((phase.first_epoch for phase in phases[index + 1 :] if phase.restart), stage_end)
    return Span(epochs=end - start, epochs_done=phases[index].first_epoch - start)


def make_trainer(
    stage: Stage,
    network: Network,
    phase: ResolvedPhase,
    history: list[dict[str, Any]],
    steps_before: int,
    untouched: frozenset[str],
    keep_best: bool,
) -> Trainer:
    """The user's trainer with this phase's epochs and our callbacks."""
    callbacks: list[Callback] = [*stage.training.callbacks()]
    if phase.plateau is not None:
        plateau = phase.plateau
        callbacks.append(
            EarlyStopping(
                plateau.monitor,
                patience=plateau.patience,
                min_delta=plateau.min_delta,
                mode=plateau.mode,
                check_on_train_epoch_end=True,
            )
        )
    callbacks.append(FiniteLoss(partial(name_images, stage.domain, stage.unlabelled), str(stage.folder / LAST)))
    callbacks.append(StageLogger(steps_before))
    callbacks.append(StageProgress(stage.name, stage.training.max_epochs))
    phase_monitor = (phase.plateau.monitor, phase.plateau.mode) if phase.plateau else (MONITOR, "max")
    checkpoint = StageCheckpoint(stage.folder, stage.key, phase.index, history, MONITOR, untouched)
    checkpoint.every = stage.training.save_every
    checkpoint.phase_monitor = phase_monitor if keep_best else None
    callbacks.append(checkpoint)
    trainer = own_trainer(
        stage,
        max_epochs=phase.max_epochs,
        callbacks=callbacks,
        logger=list(stage.loggers) or False,
        enable_checkpointing=True,
    )
    checkpoint.candidates = stage_candidates(stage, network, trainer.strategy.root_device)
    return trainer


def own_trainer(stage: Stage, **settings: Any) -> Trainer:
    """The user's trainer in the stage's precision and folder, without what graft does itself."""
    settings = stage.training.placement | settings
    remember_entry_points()
    trainer = stage.training.trainer(
        precision=stage.training.precision,
        default_root_dir=stage.folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **settings | {"plugins": [AtomicCheckpointIO(), *settings["plugins"]]},
    )
    use_epoch_loop(trainer)
    return trainer


@cache
def remember_entry_points() -> None:
    """Look once a process for callbacks that installed packages offer to every trainer.

    Lightning reads the metadata of all packages whenever a trainer is made, which takes most of the time of making it.
    """
    registry.entry_points = cache(registry.entry_points)  # type: ignore[attr-defined, assignment]


def stage_candidates(stage: Stage, network: Network, device: torch.device) -> Candidates | None:
    """What scores the epochs of a stage that adapts, on a copy of the network; None where none was asked for."""
    how, target = stage.selection, stage.unlabelled
    if how is None or target is None or not how.images:
        return None
    kept = settled_features(stage, network)
    judge = Judge(network, stage.domain, target, how.images, stage.seed, device, kept)

    def test_accuracy() -> float:
        return float(evaluate(judge.network, target, "test", device)["accuracy"])

    oracle = test_accuracy if how.oracle else None
    return Candidates(stage.folder, stage.key, how.every, judge, oracle, AtomicCheckpointIO().save_checkpoint)


def inference(training: Training, trainer: Trainer, network: Network) -> Inference:
    """Outputs computed as the trainer would compute them, without gradients."""
    return Inference(
        device=trainer.strategy.root_device,
        dtype=network.dtype,
        precision=training.precision,
        memory_format=training.memory_format,
        context=trainer.precision_plugin.forward_context,
    )


def stage_inference(stage: Stage, network: Network) -> Inference:
    """Outputs computed as the stage's own trainer would, outside a fit."""
    return inference(stage.training, stage.training.plain_trainer(), network)


def phase_data(stage: Stage, network: Network, phase: ResolvedPhase, how: Inference) -> Data:
    """The domain itself, or paired with the one that it adapts to; or what a frozen prefix makes of them.

    Raises:
        UserError: the fixed augmented views that were asked for exceed the cache's limit.
    """
    source_free, target = stage.training.source_free, stage.unlabelled
    if target is not None and target.partly_labelled:
        return PairedData(stage.domain, target, source_free)
    wanted = wanted_splits(stage)
    sides: Sequence[Domain | FeatureDomain] = kept_features(stage, network, phase, how, wanted)
    if not sides:
        sides = [domain for domain, _ in wanted]
    return sides[0] if target is None else PairedData(sides[0], sides[1], source_free)


def wanted_splits(stage: Stage) -> list[tuple[Domain, Sequence[str]]]:
    """The domains that a stage without partly labelled ones looks at, with the splits of each."""
    splits = ("val",) if stage.training.source_free else ("train", "val")
    of_target: list[tuple[Domain, Sequence[str]]] = [(stage.unlabelled, ("train",))] if stage.unlabelled else []
    return [(stage.domain, splits), *of_target]


def kept_features(
    stage: Stage,
    network: Network,
    phase: ResolvedPhase,
    how: Inference,
    wanted: Sequence[tuple[Domain, Sequence[str]]],
) -> Sequence[FeatureDomain]:
    """What the prefix of the backbone that the phase freezes makes of splits of each domain, run beforehand.

    Nothing where there is no such prefix, where a domain's views are drawn in every step, and where all of it exceeds
    the cache's limit.

    Raises:
        UserError: the fixed augmented views that were asked for exceed it.
    """
    num_views = stage.training.augmented_views
    drawn = [phase.augment and domain.augmentation is not None and "train" in splits for domain, splits in wanted]
    if stage.cache is None or (any(drawn) and not num_views):
        return []
    frozen = frozen_prefix(network, phase)
    prefix = Prefix(network.backbone, max(cut for cut in network.backbone.cut_points() if cut <= frozen))
    if prefix.cut == 0:
        return []
    samples = [
        Samples(domain, [split for split in splits if domain.sizes[split]], num_views if augments else 0)
        for (domain, splits), augments in zip(wanted, drawn, strict=True)
    ]
    found = stage.cache.get_all(prefix, samples, how)
    if found is not None:
        return [FeatureDomain(one.domain, features, prefix.cut) for one, features in zip(samples, found, strict=True)]
    if any(drawn):
        raise UserError(
            f"features.augmented_views={num_views}: what phase {phase.name!r} makes of so many views exceeds "
            "features.cache_limit_gib; raise that limit, or ask for fewer views"
        )
    return []


def settled_features(stage: Stage, network: Network) -> Sequence[FeatureDomain]:
    """What `kept_features` keeps for the first phase, where no phase changes the prefix that made it.

    Nothing where the target's views are drawn in every step, or some of its images have labels.
    """
    target, phases = stage.unlabelled, stage.training.phases(network)
    if target is None or target.partly_labelled:
        return []
    if target.augmentation is not None and any(phase.augment for phase in phases):
        return []
    if moved_prefix(network, phases, phases[0]):
        return []
    return kept_features(stage, network, phases[0], stage_inference(stage, network), wanted_splits(stage))


def cut_of(data: Data) -> int:
    """How many layer groups of the backbone the data have been through."""
    one = data.source if isinstance(data, PairedData) else data
    return one.cut if isinstance(one, FeatureDomain) else 0


def moved_prefix(network: Network, phases: Sequence[ResolvedPhase], phase: ResolvedPhase) -> bool:
    """Whether any of `phases` changes leading layer groups that `phase` freezes.

    A network as it was before them, or after, cannot go on from what those make of an image.
    """
    frozen = list(network.named_groups())[: frozen_prefix(network, phase)]
    return not moved_groups(network, phases).isdisjoint(frozen)


def trains_backbone(phase: ResolvedPhase) -> bool:
    """Whether the phase trains any parameter of the backbone."""
    return any(name.startswith("backbone.") for name in phase.trained_names)


def first_of_backbone(phases: Sequence[ResolvedPhase]) -> int | None:
    """The index of the first phase that trains a parameter of the backbone, None where none does."""
    return next((phase.index for phase in phases if trains_backbone(phase)), None)


def write_start(stage: Stage, network: Network) -> None:
    """Write down the network where the training of its backbone begins."""
    checkpoint = {"key": stage.key, "state": snapshot(network)}
    AtomicCheckpointIO().save_checkpoint(checkpoint, stage.folder / START)


def read_start(stage: Stage) -> State:
    """The network's state where the training of its backbone began, of a stage that kept it."""
    checkpoint = read_checkpoint(stage.folder / START)
    assert checkpoint["key"] == stage.key, stage.folder
    state: State = checkpoint["state"]
    return state


def num_trained(network: Network, phase: ResolvedPhase) -> int:
    """How many scalars the phase trains."""
    return sum(p.numel() for name, _, p in network.named_group_parameters() if name in phase.trained_names)


def snapshot(network: Network) -> State:
    """A copy of the network's state on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def best_state(stage: Stage, start: State, history: list[dict[str, Any]]) -> State | None:
    """The network's state after its best epoch, None where no epoch ran or the last one was the best."""
    if not history or best_epoch(history, MONITOR) == history[-1]["epoch"]:
        return None
    return start | network_state(read_checkpoint(stage.folder / BEST))


def closed_form_parts(network: Network) -> bool:
    """Whether the mapping or the head is solved rather than stepped."""
    return bool(network.solved_names())


def solve_closed_form(stage: Stage, network: Network, cache: FeatureCache | None) -> None:
    """Solve the mapping from both domains' features, then the head from the target's mapped features."""
    if not closed_form_parts(network):
        return
    how = stage_inference(stage, network)
    target = backbone_features(stage.domain, network, how, cache)
    if solve := getattr(network.mapping, "solve", None):
        assert stage.source is not None
        source = backbone_features(stage.source, network, how, cache)
        network.cpu()
        solve(source, target)
    if solve := getattr(network.head, "solve", None):
        network.cpu()
        with torch.no_grad():
            solve(network.mapping(target.to(network.dtype)), stage.domain.datasets["train"].labels)


def backbone_features(domain: Domain, network: Network, how: Inference, cache: FeatureCache | None) -> Tensor:
    """Features [n, d] of the domain's training samples, float32."""
    whole = Prefix.whole(network.backbone)
    kept = cache.get(whole, domain, ["train"], how) if cache is not None else None
    return (kept["train"][0] if kept is not None else extract(whole, domain, "train", how)).float()


def finish_adaptation(stage: Stage, network: Network, state: State) -> State:
    """`state` as the methods of adaptation leave it once all training is over."""
    assert stage.unlabelled is not None
    network.load_state_dict(state)
    how = stage_inference(stage, network)
    for method in stage.training.adaptation.values():
        method.finish(network, stage.unlabelled, how)
    return snapshot(network)


def resolve_state(stage: Stage, network: Network, state: State) -> State:
    """`state` with its closed-form parts solved anew for its own backbone."""
    network.load_state_dict(state)
    solve_closed_form(stage, network, cache=None)
    return snapshot(network)
