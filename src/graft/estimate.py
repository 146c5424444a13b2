"""What a run will cost, from a trial of a few steps of each phase that is thrown away."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from graft.batch_size import is_known
from graft.data.datasets import EpochSampler
from graft.data.domain import Domain
from graft.experiment import Experiment, Training
from graft.features import FeatureCache
from graft.gradients import NUM_BATCHES
from graft.learning_rate import NUM_STEPS, known_rate
from graft.models.heads.linear import LinearHead
from graft.models.network import Network
from graft.outcome import Start
from graft.pipeline import (
    baseline_training,
    batch_size_cases,
    load_domains,
    settle_all,
    source_key,
    source_network,
    target_key,
    target_network,
    transfer_network,
)
from graft.records.store import Store
from graft.regularisers.base import Origin
from graft.stage import Stage
from graft.strategies.phases import ResolvedPhase
from graft.strategies.rules import has_statistics
from graft.trial import Memory, Patient, Times, Trial, small_part


@dataclass(frozen=True)
class Work:
    """How much there is to do in a phase."""

    epochs: int
    train_batches: int  # an epoch
    val_batches: int  # an epoch
    images: int  # of the train and val splits, each counted for every fixed view of it
    solved: bool = False  # a closed form looks at every image before the first epoch
    recalibrated: float = 0.0  # images that go through the backbone for its norm statistics


@dataclass(frozen=True)
class Cost:
    """What one part of a run will take."""

    name: str  # "start", "data", "pretraining", "transfer", "baseline <name>", or "target.batch_size=64" where found
    seconds: float
    in_store: bool = False  # it was trained before, and will take no time
    memory: Memory | None = None  # of its largest phase


Measure = Callable[[Stage, Network, ResolvedPhase], Trial]


def phase_seconds(times: Times, work: Work) -> float:
    """Seconds that a phase takes."""
    an_epoch = work.train_batches * times.step + work.val_batches * times.validation + times.epoch
    looks = int(times.from_features) + int(work.solved)
    return work.epochs * an_epoch + (looks * work.images + work.recalibrated) * times.inference


def estimate_run(experiment: Experiment, measure: Measure | None = None) -> list[Cost]:
    """The costs of reading the data and of every stage; nothing is kept but what `auto` was found to stand for.

    Several devices are taken for one. A phase that ends at a plateau is taken to last as long as it may.

    Args:
        experiment: what would be run.
        measure: tries one phase; by default a `Patient`.

    Raises:
        UserError: what the user pointed at cannot be used.
    """
    started = time.monotonic()
    weights = load_domains(experiment)
    costs = [Cost("data", time.monotonic() - started)]
    measure = measure or Patient()
    store = Store(experiment.store)
    cases = batch_size_cases(experiment)
    known = {name: is_known(case, store) for name, case in cases.items()}
    experiment, settled = settle_all(experiment, store)
    for name, found in settled["batch_sizes"].items():
        label = f"{name}.batch_size={found['batch_size']}"
        costs.append(Cost(label, 0.0 if known[name] else found["seconds"], in_store=known[name]))
    transfer = experiment.transfer
    target = experiment.target
    source, pretrain = experiment.source, experiment.pretrain
    if transfer.strategy.initialize == "source" and source is not None:
        pretrain = at_known_rate(pretrain, source_key(experiment, pretrain, weights), store)
        key = source_key(experiment, pretrain, weights)
        if store.entry("backbone", key) is not None:
            costs.append(Cost("pretraining", 0.0, in_store=True))
        else:
            network = source_network(experiment, pretrain.seed)
            costs.append(stage_cost("pretraining", pretrain, network, source, measure, experiment.features_limit))
    stages = {"transfer": transfer}
    stages |= {f"baseline {name}": baseline_training(experiment, name) for name in experiment.baselines}
    for name, training in stages.items():
        first_key = target_key(experiment, training, Start("scratch"), None)
        key = target_key(experiment, at_known_rate(training, first_key, store), Start("scratch"), None)
        itself = training == transfer and transfer.strategy.initialize == "scratch"
        if name != "transfer" and (itself or store.entry("baseline", key) is not None):
            costs.append(Cost(name, 0.0, in_store=True))
        else:
            network = transfer_network(experiment) if name == "transfer" else target_network(experiment)
            origin = trial_origin(experiment) if training.regularisers and source is not None else None
            if training.adaptation:
                assert source is not None
                domain, unlabelled = source, target
            else:
                domain, unlabelled = target, None
            limit = experiment.features_limit
            costs.append(stage_cost(name, training, network, domain, measure, limit, origin, unlabelled))
    return costs


def at_known_rate(training: Training, key: str, store: Store) -> Training:
    """The training at the rate that was found for the stage with this key, where it is open and was found before."""
    search = known_rate(key, store) if training.lr == "auto" else None
    return training if search is None or search["lr"] is None else training.with_lr(search["lr"], search)


def trial_origin(experiment: Experiment) -> Origin:
    """A source stage as far as time is concerned: its head is random, its domain small."""
    assert experiment.source is not None
    head = source_network(experiment, experiment.pretrain.seed).head
    assert isinstance(head, LinearHead)
    return Origin(head, small_part(experiment.source), Store(experiment.store))


def stage_cost(
    name: str,
    training: Training,
    network: Network,
    domain: Domain,
    measure: Measure,
    features_limit: int,
    origin: Origin | None = None,
    unlabelled: Domain | None = None,
) -> Cost:
    """Try every phase on a small part of the domain and reckon up what the whole takes, scoring on test and val too."""
    seconds, memories, inference = 0.0, [], 0.0
    part, searching = small_part(domain), training.lr == "auto"
    if searching:
        training = training.with_lr(0.0)
    slowest = 0.0
    with TemporaryDirectory() as folder:
        # As much of the limit as is this part's, so that it caches what the whole would.
        limit = features_limit * part.sizes["train"] // domain.sizes["train"]
        cache = FeatureCache(Store(Path(folder) / "store"), limit)
        if origin is not None:
            origin = replace(origin, store=Store(Path(folder) / "store"))
        stage = Stage("trial", "trial", training, part, None, training.seed, Path(folder), (), cache, origin)
        if unlabelled is not None:
            stage = replace(stage, unlabelled=small_part(unlabelled))
        for phase in training.phases(network):
            solved = bool(network.solved_names())
            if not (phase.trained_names or solved or phase.recalibrate):
                continue
            trial = measure(stage, network, phase)
            work = replace(
                phase_work(training, domain, phase, solved, unlabelled),
                recalibrated=num_recalibrated(network, domain, phase),
            )
            seconds += phase_seconds(trial.times, work)
            slowest = max(slowest, trial.times.step)
            inference = trial.times.inference
            memories.append(trial.memory)
    if searching:  # in the phase that trains most, which takes longest for a step
        seconds += NUM_STEPS * slowest
    scored = unlabelled or domain
    scoring = inference * (scored.sizes["test"] + scored.sizes["val"])
    choosing = inference * num_choosing(training, network, domain)
    return Cost(name, seconds + scoring + choosing, memory=max(memories, key=lambda memory: memory.total, default=None))


def phase_work(
    training: Training, domain: Domain, phase: ResolvedPhase, solved: bool, unlabelled: Domain | None = None
) -> Work:
    """How much a phase of a stage has to do, within the trainer's limits on batches."""
    settings = getattr(training.trainer, "keywords", {})
    train, val = (
        limited(num_batches(domain, split), settings.get(f"limit_{split}_batches")) for split in ("train", "val")
    )
    if unlabelled is not None:
        pairs = len(EpochSampler(len(unlabelled.pool), unlabelled.batch_size))
        if unlabelled.partly_labelled:
            pairs = max(pairs, num_batches(unlabelled, "train"))
        train = max(0 if training.source_free else train, limited(pairs, settings.get("limit_train_batches")))
    epochs = phase.max_epochs if phase.trained_names else 0
    images = domain.sizes["val"] + (0 if training.source_free else num_views(training, domain, phase))
    if unlabelled is not None:
        images += num_views(training, unlabelled, phase)
    return Work(epochs, train, val, images, solved)


def num_views(training: Training, domain: Domain, phase: ResolvedPhase) -> int:
    """Fixed views of the domain's training images, of which there are several where augmented ones are asked for."""
    views = max(1, training.augmented_views) if phase.augment and domain.augmentation is not None else 1
    return views * domain.sizes["train"]


def num_recalibrated(network: Network, domain: Domain, phase: ResolvedPhase) -> float:
    """Images that go through the backbone for `recalibrate`: all of them up to each layer, half the way on average."""
    if not phase.recalibrate:
        return 0.0
    return domain.sizes["train"] * sum(map(has_statistics, network.backbone.modules())) / 2


def num_choosing(training: Training, network: Network, domain: Domain) -> int:
    """Images that go through the backbone to choose the strategy's groups: all to solve a closed form, some for
    gradients, which cost three times as much.
    """
    if training.strategy.groups != "auto":
        return 0
    num_train = domain.sizes["train"]
    return 3 * min(NUM_BATCHES * domain.batch_size, num_train) + bool(network.solved_names()) * num_train


def num_batches(domain: Domain, split: str) -> int:
    """Batches of an epoch."""
    size = domain.sizes[split]
    return len(EpochSampler(size, domain.batch_size)) if size else 0


def limited(num: int, limit: float | None) -> int:
    """The batches that are left by a trainer's limit: a number of them, or a share.

    >>> limited(40, 3), limited(40, 0.5), limited(40, None)
    (3, 20, 40)
    """
    if limit is None:
        return num
    return min(num, limit) if isinstance(limit, int) else int(num * limit)
