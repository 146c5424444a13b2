"""One run, from top to bottom: pretrain, transfer, compare with baselines, evaluate, record."""

import json
import logging
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from safetensors.torch import load_file

from graft.adaptation.open_set import open_set_scores
from graft.after.base import Finished
from graft.batch_size import Case, is_from_store, settle_batch_sizes
from graft.callbacks.board import confusion_picture, log_baselines, log_curves, log_result
from graft.callbacks.choices import Choice
from graft.callbacks.domains import DomainLogger, DomainWatch, project_test, save_picture
from graft.callbacks.loggers import StageLoggers
from graft.callbacks.pictures import confused_picture
from graft.callbacks.reporting import EpochReports, Report
from graft.data.aligned import UNKNOWN, align
from graft.data.domain import Domain
from graft.data.label_space import RELATION, compare
from graft.data.preprocessing import Inputs
from graft.errors import UserError
from graft.evaluation import evaluate, evaluation_loader, predict
from graft.experiment import Experiment, Training
from graft.features import FeatureCache
from graft.keys import stage_key
from graft.learning_rate import KIND as RATE
from graft.learning_rate import find_rate
from graft.models.adapters.base import Adapter, merged
from graft.models.adapters.saved import save_adapter
from graft.models.backbones.base import Backbone
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network, initial_weights
from graft.models.weights import (
    ADAPTER_FILE,
    RUN_FILE,
    WeightsFile,
    has_folded_norms,
    load_weights,
    read_weights,
    save_weights,
)
from graft.numerics import settle
from graft.outcome import Outcome, Start
from graft.records.files import atomic_write_json, without_nan
from graft.records.place import Place
from graft.records.record import RECORD, end_record, load_record, open_set_metrics, start_record, write_record
from graft.records.store import Store
from graft.regularisers.base import Origin
from graft.stage import MEMORY_FORMATS, Fitted, Stage, fit_stage, num_trained, snapshot
from graft.strategies.engine import uses_data_statistics
from graft.strategies.plan import plan_table
from graft.strategies.written import written_out
from graft.summary import describe_adapter, describe_run
from graft.threads import forward_flop, use_paying_threads
from graft.transferred import compare_with_start

log = logging.getLogger(__name__)

SOURCE_ONLY = "source_only"  # the baseline of adaptation: the source stage's network as it is


def run(experiment: Experiment, folder: Path, report: Report | None = None) -> dict[str, Any]:
    """Run `experiment` in `folder`, or go on with what an interrupted run left there, and return the record.

    Args:
        experiment: what is run.
        folder: of the run.
        report: is told of each epoch of the transfer stage, and may end the run there.

    Raises:
        UserError: something the user gave cannot be used.
        PrunedError: `report` ended the run.
    """
    log, failed = StageLoggers(experiment.loggers, experiment.place or Place(folder)), True
    try:
        record = run_logged(replace(experiment, log=log), folder, report)
        failed = False
    finally:
        log.close(failed)
    return record


def run_logged(experiment: Experiment, folder: Path, report: Report | None) -> dict[str, Any]:
    """The same, with loggers that the stages write to."""
    started = time.monotonic()
    store = Store(experiment.store)
    weights = load_domains(experiment)
    record = open_record(experiment, folder)
    experiment, settled = settle_all(experiment, store)
    record |= settled
    start = pretrain(experiment, weights, store, folder)
    training = found_rate(experiment, experiment.transfer, start, "transfer", experiment.adapter)
    tuned = replace(experiment, transfer=training)
    watch = watch_domains(tuned, start, folder)
    network, outcome = transfer(reported(watched(tuned, watch), report), start, store, folder)
    if watch is not None:
        watch.end(network, len(outcome.history))
    source_after = source_after_transfer(experiment, start, network)
    with meanwhile(partial(draw_errors, folder, experiment.target, selected(outcome, experiment))) as drawn:
        transferred = what_was_transferred(experiment, start, network, source_after)
    after = after_transfer(tuned, start, network, folder)
    baselines = {name: baseline(experiment, name, store, folder) for name in experiment.baselines}
    if experiment.adapts:
        baselines[SOURCE_ONLY] = source_only(experiment, start)
    device = experiment.transfer.device
    described = describe_run(
        experiment, start, outcome, source_after, baselines, network.backbone.name, describe_device(device)
    )
    record |= without_nan(described | {"transferred": transferred, "after": after})
    if experiment.adapts:
        record["label_space"] = describe_label_space(experiment, start, network)
    record["adapter"] = describe_adapter(network, outcome.trainable_parameters)
    record["cost"]["search_seconds"] += sum(found["seconds"] for found in record["batch_sizes"].values())
    record["cost"] |= {"total_seconds": time.monotonic() - started, "peak_memory_bytes": peak_memory(device)}
    show_in_loggers(tuned, network, record, drawn.result(), watch)
    record["domains"] = without_nan(watch.report()) if watch is not None else {}
    record = end_record(record, "done")
    write_record(folder, record)
    return record


def settle_all(experiment: Experiment, store: Store) -> tuple[Experiment, dict[str, Any]]:
    """The experiment with batch sizes, precision and memory format in the place of `auto`, and what the record says.

    Learning rates are found when their stage begins. Where a batch size is found, the threads of torch become those
    that pay for it; `threads.paying_threads` around the run puts them back.
    """
    cases = batch_size_cases(experiment)
    experiment, batch_sizes = settle_batch_sizes(experiment, cases, store)
    for name, found in batch_sizes.items():
        spent = time_spent(found["seconds"], is_from_store(cases[name], store))
        log.info("%-10s %-16s batch size %d   %s", name, cases[name].domain.name, found["batch_size"], spent)
    if batch_sizes:
        use_paying_threads(experiment)
    experiment, numerics = settle(experiment, lambda: target_network(experiment), store)
    return experiment, {"numerics": numerics, "batch_sizes": batch_sizes}


def batch_size_cases(experiment: Experiment) -> dict[str, Case]:
    """The domains, "source" and "target", that are loaded and leave their batch size open."""
    config = experiment.config
    backbone = {name: value for name, value in config["backbone"].items() if name not in ("weights", "reinitialise")}
    source = [backbone, config["pretrain"]["optimizer"]["_target_"]]
    target = [backbone, config["optimizer"]["_target_"], config["mapping"], config["head"], config["adapter"]]

    def open_domain(domain: Domain | None) -> bool:
        return domain is not None and domain.preprocessing is not None and domain.batch_size == 0

    cases = {}
    if experiment.source is not None and open_domain(experiment.source):
        training = experiment.pretrain
        new_network = partial(source_network, experiment, training.seed)
        cases["source"] = Case(training, experiment.source, source, forward_flop(experiment), new_network)
    if open_domain(experiment.target):
        new_network = partial(transfer_network, experiment)
        cases["target"] = Case(experiment.transfer, experiment.target, target, forward_flop(experiment), new_network)
    return cases


def open_record(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Say in the folder that the run has begun; an interrupted run keeps its beginning."""
    if (folder / RECORD).exists():
        return load_record(folder)
    record = start_record(experiment.name, experiment.seed, experiment.config)
    write_record(folder, record)
    return record


def load_domains(experiment: Experiment) -> WeightsFile | None:
    """Read the weights where they come from a file, and both domains the way the backbone wants them.

    All that can be wrong with the user's files shows here, before anything is trained.
    """
    weights, preprocessing = prepared_inputs(experiment)
    experiment.target.load(preprocessing)
    if experiment.source is not None:
        experiment.source.load(experiment.target.rendered(preprocessing))
    if experiment.adapts:
        relate_classes(experiment)
        check_labels_left_out(experiment.target)
    need_val = [f"after.{name}" for name, method in experiment.after.items() if method.needs_val]
    if need_val and not experiment.target.sizes["val"]:
        raise UserError(f"{need_val[0]}: needs validation samples, and target {experiment.target.name} has none")
    return weights


def check_labels_left_out(target: Domain) -> None:
    """Adaptation needs images without labels; where some have labels, it says how many.

    Raises:
        UserError: the label budget takes in every training image.
    """
    if not len(target.pool):
        raise UserError(f"{target.name}: the label budget leaves no training sample without a label to adapt to")
    if target.partly_labelled:
        log.info(
            "%-10s %-16s labels of %d training samples are used, %d are taken to have none",
            *("adaptation", target.name, target.sizes["train"], len(target.pool)),
        )


def relate_classes(experiment: Experiment) -> None:
    """Adaptation takes the source's head over, so the target's labels are numbered as the source's are.

    Raises:
        UserError: the classes of the two do not relate as `label_space` says.
    """
    source, target = experiment.source, experiment.target
    assert source is not None
    if target.label_space is None:
        align(target, compare(experiment.config["label_space"], source, target), source.class_names)
        for warning in label_space_warnings(experiment):
            log.warning("%s", warning)


def label_space_warnings(experiment: Experiment) -> list[str]:
    """A line for each method that takes the domains to have the same classes, where they are declared not to."""
    kind = experiment.config["label_space"]
    if kind == "closed":
        return []
    return [
        f"adaptation={name} {method.closed_set}, and label_space={kind}: {RELATION[kind]}; it may do harm"
        for name, method in experiment.transfer.adaptation.items()
        if method.closed_set
    ]


def describe_label_space(experiment: Experiment, start: Start, network: Network) -> dict[str, Any]:
    """How the classes of both domains relate, by name; for an open target, open-set scores of this and before."""
    space, target, unknown = experiment.target.label_space, experiment.target, experiment.config["unknown"]
    assert space is not None
    described = asdict(space) | {"warnings": label_space_warnings(experiment)}
    if not target.sizes.get(UNKNOWN):
        return described
    scores = {}
    for name, scored in (("transfer", network), (SOURCE_ONLY, starting_network(experiment, start, None))):
        known, others = (
            predict(scored, evaluation_loader(target, split), target.view, experiment.transfer.device)
            for split in ("test", UNKNOWN)
        )
        scores[name] = open_set_scores(known, others[0], unknown["confidence"], unknown["threshold"])
    return described | {"unknown": unknown, "open_set": scores}


def load_weights_file(experiment: Experiment) -> tuple[WeightsFile | None, Inputs]:
    """The weights where they come from a file, tried on the backbone, and what inputs go through before it."""
    backbone = experiment.backbone()
    if experiment.weights == "source":
        return None, backbone.preprocessing
    weights = read_weights(experiment.weights, backbone)
    load_weights(backbone, weights.state, experiment.reinitialise)
    if has_folded_norms(backbone):
        refuse_data_statistics(experiment, backbone)
    return weights, weights.preprocessing or backbone.preprocessing


def prepared_inputs(experiment: Experiment) -> tuple[WeightsFile | None, Inputs]:
    """The same, with what is learned from the source's training samples, or the target's where there is no source."""
    weights, preprocessing = load_weights_file(experiment)
    return weights, (experiment.source or experiment.target).fitted(preprocessing)


def refuse_data_statistics(experiment: Experiment, backbone: Backbone) -> None:
    """Backbones whose norm layers are folded into the layers before them must be trained with norms as they are.

    Raises:
        UserError: a stage that starts from the weights normalises by the statistics of its data.
    """
    mapping = experiment.mapping(backbone.num_features)
    network = Network(backbone, mapping, experiment.head(mapping.num_outputs, 2))
    stages = {"pretrain.strategy": experiment.pretrain} if experiment.source is not None else {}
    if experiment.transfer.strategy.initialize == "source":
        stages["strategy"] = experiment.transfer
    for path, training in stages.items():
        if path == "strategy" and experiment.adapter is not None:
            network = adapted(experiment, network, experiment.adapter)
        for phase in training.phases(network):
            if phase.trained_names and uses_data_statistics(network, phase):
                raise UserError(
                    f"backbone.weights={experiment.weights}: its norm layers are folded into the layers before them "
                    f"(running means 0, variances 1), and {path}={training.strategy.name} would normalise by the "
                    f"data's own statistics, which undoes what was learned; add +{path}.norm_statistics=eval"
                )


def pretrain(experiment: Experiment, weights: WeightsFile | None, store: Store, folder: Path) -> Start:
    """The weights that transfer starts from: none, a file's, or those of the source stage (trained once for all)."""
    if experiment.transfer.strategy.initialize == "scratch":
        return Start("scratch")
    source = experiment.source
    if source is None:
        assert weights is not None
        network = target_network(experiment)
        load_weights(network.backbone, weights.state, experiment.reinitialise)
        return Start(weights.origin, weights.sha256, network.backbone.state_dict())

    def new_network() -> Network:
        network = source_network(experiment, experiment.pretrain.seed)
        if weights is not None:
            load_weights(network.backbone, weights.state, experiment.reinitialise)
        return network

    key = source_key(experiment, experiment.pretrain, weights)
    quiet = replace(experiment, log=None)
    with open_stage(quiet, "pretrain", key, experiment.pretrain, source, Path()) as stage:
        training = searched(stage, new_network, store)
    key = source_key(experiment, training, weights)

    def fill(entry: Path) -> None:
        network = new_network()
        with open_stage(experiment, "pretrain", key, training, source, folder) as stage:
            fitted = fit_stage(stage, network)
        test = evaluate(network, source, "test", training.device)
        save_weights(network.backbone, entry / "backbone.safetensors", preprocessing_of(source))
        save_weights(network.head, entry / "head.safetensors", {})
        outcome = {"scores": test, "seconds": fitted.seconds, "history": fitted.history}
        outcome["micro_batch"] = fitted.micro_batch
        atomic_write_json(entry / "outcome.json", outcome)

    entry = store.get_or_make("backbone", key, fill)
    shutil.rmtree(folder / "pretrain", ignore_errors=True)
    outcome = json.loads((entry / "outcome.json").read_text())
    say("pretrain", source, outcome["scores"]["accuracy"], outcome["seconds"], not store.made("backbone", key))
    backbone, head = (load_file(entry / name) for name in ("backbone.safetensors", "head.safetensors"))
    search, micro_batch = dict(training.search), outcome.get("micro_batch")
    return Start("source", key, backbone, head, outcome["scores"], outcome["seconds"], search, micro_batch)


def source_key(experiment: Experiment, training: Training, weights: WeightsFile | None) -> str:
    """The content hash of the source stage."""
    assert experiment.source is not None
    settings = experiment.config["pretrain"]
    settings = settings | {"optimizer": optimizer_settings(settings["optimizer"], training)}
    if experiment.adapts:
        settings["head"] = experiment.config["head"]
    return stage_key(experiment, training, settings, experiment.source, weights.sha256 if weights else None)


def found_rate(
    experiment: Experiment, training: Training, start: Start, name: str, adapter: Adapter | None = None
) -> Training:
    """The training of a target stage at the learning rate that a range test suggests, where it is `auto`."""
    key = target_key(experiment, training, start, adapter)
    with open_stage(replace(experiment, log=None), name, key, training, experiment.target, Path()) as stage:
        stage = replace(stage, origin=origin_of(experiment, start))
        return searched(stage, lambda: starting_network(experiment, start, adapter), Store(experiment.store))


def searched(stage: Stage, new_network: Callable[[], Network], store: Store) -> Training:
    """The stage's training at the learning rate that is found for it, where it is `auto`."""
    training = stage.training
    if training.lr != "auto":
        return training
    search = find_rate(stage, new_network, store)
    lr, spent = search["lr"], time_spent(search["seconds"], not store.made(RATE, stage.key))
    rate = f"no learning rate: {search['reason']}" if lr is None else f"learning rate {lr:g}"
    log.info("%-10s %-16s %s   %s", stage.name, stage.domain.name, rate, spent)
    return replace(training, search=search) if lr is None else training.with_lr(lr, search)


def transfer(experiment: Experiment, start: Start, store: Store, folder: Path) -> tuple[Network, Outcome]:
    """The target stage: a new head (and mapping) on the starting weights, under the strategy."""
    training = experiment.transfer
    network, key, outcome = fit_target(experiment, training, start, "transfer", folder, experiment.adapter)
    save_network(network, folder / "weights", preprocessing_of(experiment.target))
    if start.origin == "scratch":
        store.get_or_make("baseline", key, lambda entry: atomic_write_json(entry / "outcome.json", asdict(outcome)))
    return network, replace(outcome, search=dict(training.search))


def watch_domains(experiment: Experiment, start: Start, folder: Path) -> DomainWatch | None:
    """A watch that has seen both domains as transfer begins; None where features are not looked at."""
    plots, source, target = experiment.feature_plots, experiment.source, experiment.target
    if not plots.num_images:
        return None
    assert source is not None
    device = experiment.transfer.device
    watch = DomainWatch(source, target, plots.num_images, experiment.adapts, plots.projection, folder, device)
    watch.begin(starting_network(experiment, start, experiment.adapter))
    return watch


def watched(experiment: Experiment, watch: DomainWatch | None) -> Experiment:
    """The experiment with a callback that shows during transfer what the watch sees."""
    if watch is None:
        return experiment
    return with_callback(experiment, partial(DomainLogger, watch, experiment.feature_plots.every))


def reported(experiment: Experiment, report: Report | None) -> Experiment:
    """The experiment with a callback that tells `report` of each epoch of transfer."""
    return experiment if report is None else with_callback(experiment, partial(EpochReports, report))


def with_callback(experiment: Experiment, make: Callable[[], Callback]) -> Experiment:
    """The experiment with one more callback during transfer."""
    training = experiment.transfer
    callbacks = partial(and_another, training.callbacks, make)
    return replace(experiment, transfer=replace(training, callbacks=callbacks))


def and_another(callbacks: Callable[[], list[Callback]], make: Callable[[], Callback]) -> list[Callback]:
    """Fresh callbacks and a further one."""
    return [*callbacks(), make()]


def save_network(network: Network, folder: Path, metadata: dict[str, str]) -> None:
    """Write the backbone and the whole network; where there is an adapter, it alone and both with it merged.

    A backbone with an adapter that cannot be merged is written as a part of the network only.
    """
    if network.backbone.adaptation is not None:
        save_adapter(network, folder / ADAPTER_FILE.name)
    backbone = merged(network.backbone)
    save_weights(Network(backbone, network.mapping, network.head), folder / "network.safetensors", metadata)
    if backbone.adaptation is None:
        save_weights(backbone, folder / RUN_FILE.name, metadata)
    else:
        log.info("adapter=%s cannot be merged into a plain backbone: none is written", backbone.adaptation.adapter.name)


def baseline(experiment: Experiment, name: str, store: Store, folder: Path) -> Outcome:
    """The same target, labels, budget and head under another strategy from scratch; trained once for all runs."""
    training = found_rate(experiment, baseline_training(experiment, name), Start("scratch"), name)
    key = target_key(experiment, training, Start("scratch"), None)

    def fill(entry: Path) -> None:
        _, _, outcome = fit_target(experiment, training, Start("scratch"), name, folder)
        atomic_write_json(entry / "outcome.json", asdict(outcome))

    entry = store.get_or_make("baseline", key, fill)
    shutil.rmtree(folder / name, ignore_errors=True)
    outcome = Outcome(**json.loads((entry / "outcome.json").read_text()))
    if not store.made("baseline", key):
        say(name, experiment.target, selected(outcome, experiment)["accuracy"], outcome.seconds, from_store=True)
    return replace(outcome, search=dict(training.search))


def source_only(experiment: Experiment, start: Start) -> Outcome:
    """What the source stage's network gets right on the target as it is: the baseline of adaptation."""
    network = starting_network(experiment, start, None)
    network.to(memory_format=MEMORY_FORMATS[experiment.transfer.memory_format])
    state = snapshot(network)
    fitted, cache = Fitted(state, state, [], 0, 0.0), feature_cache(experiment)
    training = experiment.transfer
    outcome = score(fitted, network, experiment.target, training.device, cache, training.memory_format)
    say(SOURCE_ONLY, experiment.target, selected(outcome, experiment)["accuracy"], 0.0)
    return outcome


def fit_target(
    experiment: Experiment, training: Training, start: Start, name: str, folder: Path, adapter: Adapter | None = None
) -> tuple[Network, str, Outcome]:
    """Train a network on the target and score it under every selection rule; returns the selected network."""
    target = experiment.target
    network = starting_network(experiment, start, adapter)
    key = target_key(experiment, training, start, adapter)
    with open_stage(experiment, name, key, training, target, folder) as stage:
        stage = replace(stage, origin=origin_of(experiment, start), selection=experiment.selection)
        fitted = fit_stage(stage, network)
    choices = fitted.choices
    cache = feature_cache(experiment) if adapter is None and kept_backbone(choices, start) else None
    outcome = score(fitted, network, target, training.device, cache, training.memory_format)
    network.load_state_dict(choices.get(experiment.selection.rule, choices["last"]).read())
    say(name, target, selected(outcome, experiment)["accuracy"], outcome.seconds)
    return network, key, outcome


def starting_network(experiment: Experiment, start: Start, adapter: Adapter | None) -> Network:
    """The target network on the starting weights, with the adapter if there is one."""
    network = target_network(experiment)
    if start.backbone:
        network.backbone.load_state_dict(start.backbone)
    if experiment.adapts:
        network.head.load_state_dict(start.source_head)
    return network if adapter is None else adapted(experiment, network, adapter)


def target_key(experiment: Experiment, training: Training, start: Start, adapter: Adapter | None) -> str:
    """The content hash of a target stage."""
    settings = target_settings(experiment, training)
    if adapter is not None:
        settings["adapter"] = experiment.config["adapter"]
    if training.adaptation:
        assert experiment.source is not None
        settings |= {"adaptation": experiment.config["adaptation"], "source": data_settings(experiment.source)}
    return stage_key(experiment, training, settings, experiment.target, start.key)


def baseline_training(experiment: Experiment, name: str) -> Training:
    """The transfer stage's training under a baseline's strategy, without the regularisers."""
    return replace(experiment.transfer, strategy=experiment.baselines[name], regularisers={}, adaptation={})


def origin_of(experiment: Experiment, start: Start) -> Origin | None:
    """The source stage that the weights come from, for terms beside the objective; None without such, or without it."""
    if not start.source_head or not experiment.transfer.terms:
        return None
    assert experiment.source is not None
    head = source_network(experiment, experiment.pretrain.seed).head
    if not isinstance(head, LinearHead):
        return None
    head.load_state_dict(start.source_head)
    return Origin(head, experiment.source, Store(experiment.store))


def kept_backbone(choices: Mapping[str, Choice], start: Start) -> bool:
    """Whether the backbone is as the stage was given it, buffers too, in every network that a rule chose."""
    states = (choice.read() for choice in {choice.epoch: choice for choice in choices.values()}.values())
    pairs = ((state[f"backbone.{name}"], tensor) for state in states for name, tensor in start.backbone.items())
    return bool(start.backbone) and all(torch.equal(after, before.to(after.dtype)) for after, before in pairs)


def score(
    fitted: Fitted,
    network: Network,
    target: Domain,
    device: torch.device,
    cache: FeatureCache | None = None,
    memory_format: str = "contiguous",
) -> Outcome:
    """Scores on the target's test and val splits of the weights that each selection rule picks.

    The cache is for a backbone that other runs score too, and the memory format that of the network's weights.
    """
    splits = [split for split in ("test", "val") if target.sizes[split]]
    scores: dict[int, dict[str, Any]] = {}  # by epoch: rules often choose the same
    for choice in fitted.choices.values():
        if choice.epoch not in scores:
            network.load_state_dict(choice.read())
            scores[choice.epoch] = {
                split: evaluate(network, target, split, device, cache, memory_format) for split in splits
            }
    return Outcome(
        scores={rule: scores[choice.epoch] for rule, choice in fitted.choices.items()},
        best_epoch=fitted.best_epoch,
        history=fitted.history,
        steps=fitted.steps,
        seconds=fitted.seconds,
        trainable_parameters=fitted.trainable_parameters,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        chosen=fitted.chosen,
        micro_batch=fitted.micro_batch,
        choices={rule: choice.described() for rule, choice in fitted.choices.items()},
    )


def source_after_transfer(experiment: Experiment, start: Start, network: Network) -> dict[str, Any]:
    """What the adapted backbone still gets right on the source, under the source's own head; empty without one."""
    if not start.source_head or experiment.source is None:
        return {}
    before, backbone = source_network(experiment, experiment.pretrain.seed), merged(network.backbone)
    if backbone.adaptation is None:
        state = backbone.state_dict()
        if all(torch.equal(tensor.cpu(), start.backbone[name]) for name, tensor in state.items()):
            return start.source_scores
        before.backbone.load_state_dict(state)
    else:
        before.backbone = backbone
        before.to(network.dtype)
    before.head.load_state_dict(start.source_head)
    return evaluate(before, experiment.source, "test", experiment.pretrain.device)


def what_was_transferred(
    experiment: Experiment, start: Start, network: Network, source_after: dict[str, Any]
) -> dict[str, Any]:
    """What became of the backbone's weights (`compare_with_start`); empty where it began from scratch.

    `forgotten` is what the accuracy on the source's test split lost; None where it was not measured.
    """
    if not start.backbone:
        return {}
    forgotten = start.source_scores["accuracy"] - source_after["accuracy"] if source_after else None
    backbone = merged(network.backbone)
    if backbone.adaptation is not None:  # its own weights have not moved, and it has layers that were not there before
        return {"forgotten": forgotten, "moved": 0.0, "moved_relative": 0.0, "images": 0, "groups": {}}
    device, num_images = experiment.transfer.device, experiment.cka_images
    return {
        "forgotten": forgotten,
        **compare_with_start(backbone, start.backbone, experiment.target, num_images, device),
    }


def after_transfer(experiment: Experiment, start: Start, network: Network, folder: Path) -> dict[str, Any]:
    """What each method of `after` came to, by name; the network is left as it was."""
    target, training = experiment.target, experiment.transfer

    def source_accuracy(network: Network) -> float | None:
        return source_after_transfer(experiment, start, network).get("accuracy")

    def save(name: str) -> None:
        plain = Network(merged(network.backbone), network.mapping, network.head)
        save_weights(plain, folder / "weights" / f"{name}.safetensors", preprocessing_of(target))

    key = target_key(experiment, training, start, experiment.adapter)
    results: dict[str, Any] = {}
    for name, method in experiment.after.items():
        started = time.monotonic()
        with open_stage(replace(experiment, log=None), "transfer", key, training, target, folder) as stage:
            results[name] = method(Finished(stage, network, source_accuracy, save))
        results[name]["seconds"] = time.monotonic() - started
        say(name, target, results[name]["metrics"]["target/test/accuracy"], results[name]["seconds"])
    return results


def target_network(experiment: Experiment) -> Network:
    """Backbone, mapping and head with the weights that the seed gives each of them, whatever the others are."""
    seed = experiment.transfer.seed
    with initial_weights(seed, "backbone"):
        backbone = experiment.backbone()
    with initial_weights(seed, "mapping"):
        mapping = experiment.mapping(backbone.num_features)
    with initial_weights(seed, "head"):
        head = experiment.head(mapping.num_outputs, experiment.target.num_classes)
    return Network(backbone, mapping, head)


def transfer_network(experiment: Experiment) -> Network:
    """The target network with the experiment's adapter, if any, before any weights are loaded."""
    network = target_network(experiment)
    return network if experiment.adapter is None else adapted(experiment, network, experiment.adapter)


def adapted(experiment: Experiment, network: Network, adapter: Adapter) -> Network:
    """The target network with the adapter in its backbone; the adapter's weights are those that the seed gives it."""
    preprocessing = experiment.target.preprocessing or network.backbone.preprocessing
    with initial_weights(experiment.transfer.seed, "adapter"):
        backbone = adapter.adapt(network.backbone, preprocessing.size)
    return Network(backbone, network.mapping, network.head)


def source_network(experiment: Experiment, seed: int) -> Network:
    """The network of the source stage: the same backbone under a head for the source's classes.

    The head is linear, or the target's own kind where adaptation takes it over.
    """
    assert experiment.source is not None
    with initial_weights(seed, "backbone"):
        backbone = experiment.backbone()
    with initial_weights(seed, "head"):
        make_head = experiment.head if experiment.adapts else LinearHead
        head = make_head(backbone.num_features, experiment.source.num_classes)
    return Network(backbone, IdentityMapping(backbone.num_features), head)


@contextmanager
def open_stage(
    experiment: Experiment, name: str, key: str, training: Training, domain: Domain, folder: Path
) -> Iterator[Stage]:
    """A stage with loggers of its own, so that stages lie over each other under the same tags."""
    loggers = experiment.log.of(name) if experiment.log is not None else ()
    source = experiment.source if domain is experiment.target else None
    cache = feature_cache(experiment)
    keep_start = name == "transfer" and any(method.needs_start for method in experiment.after.values())
    stage = Stage(name, key, training, domain, source, training.seed, folder / name, loggers, cache)
    if training.adaptation:
        assert experiment.source is not None
        stage = replace(stage, domain=experiment.source, unlabelled=domain)
    yield replace(stage, keep_start=keep_start)
    for logger in loggers:
        logger.finalize("success")


def feature_cache(experiment: Experiment) -> FeatureCache | None:
    """Where outputs of frozen parts are kept; None where the user wants none kept."""
    return FeatureCache(Store(experiment.store), experiment.features_limit) if experiment.features_limit else None


@contextmanager
def meanwhile(work: Callable[[], np.ndarray]) -> Iterator[Future[np.ndarray]]:
    """What `work` returns, done in a thread by the end of the block, which leaves it a core."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        yield thread.submit(work)


def draw_errors(folder: Path, target: Domain, scores: dict[str, Any]) -> np.ndarray:
    """Pictures of what the network gets wrong on the test split; returns that of the confusion matrix."""
    confusion = confusion_picture(scores["confusion"], target.class_names)
    save_picture(folder, "confusion", confusion)
    save_mistaken(folder, target, scores)
    return confusion


def save_mistaken(folder: Path, target: Domain, scores: dict[str, Any]) -> None:
    """A picture of test images of the commonest errors, as they lie on the canvas; none where there are no errors.

    Nor for samples of another kind.
    """
    assert target.preprocessing is not None
    if target.preprocessing.modality != "image":
        return
    names, confusion = target.class_names, scores["confusion"]
    rows = []
    for error in scores["mistaken"]:
        label, predicted = error["label"], error["predicted"]
        images = target.datasets["test"][np.array(error["positions"])].x.permute(0, 2, 3, 1).squeeze(3).numpy()
        counts = f"{confusion[label][predicted]} of {sum(confusion[label])}"
        rows.append((f"{names[label]} taken for {names[predicted]} ({counts})", list(images)))
    if rows:
        save_picture(folder, "confused", confused_picture(rows))


def show_in_loggers(
    experiment: Experiment, network: Network, record: dict[str, Any], confusion: np.ndarray, watch: DomainWatch | None
) -> None:
    """The run's settings with its real final metrics, and pictures of its result, in the transfer stage's logs."""
    settings, metrics = shown_settings(experiment, record), shown_metrics(record)
    for logger in experiment.log.of("transfer") if experiment.log is not None else ():
        log_curves(logger, record["after"])
        log_baselines(logger, record["baselines"])
        if watch is not None:
            watch.log_end(logger, record["cost"]["steps"])
        elif isinstance(logger, TensorBoardLogger) and experiment.projector_images:
            device = experiment.transfer.device
            project_test(Path(logger.log_dir), network, experiment.target, experiment.projector_images, device)
        log_result(logger, settings, metrics, record, confusion)


def shown_settings(experiment: Experiment, record: dict[str, Any]) -> dict[str, Any]:
    """The settings by which runs are compared: some of every run, and those that set a job of a sweep apart."""
    settings = {name: record[name] for name in ("source", "target", "backbone", "strategy", "objective", "seed")}
    settings |= {"adapter": record["adapter"]["kind"] if record["adapter"] else "none"}
    settings |= {"labels_per_class": experiment.config["target"].get("labels_per_class") or "all"}
    settings |= {"lr": experiment.transfer.lr, "max_epochs": experiment.transfer.max_epochs}
    overrides = experiment.place.overrides if experiment.place is not None else ()
    swept = dict(text.lstrip("+").split("=", 1) for text in overrides if "=" in text)
    return settings | {key: value for key, value in swept.items() if key.rpartition(".")[2] not in settings}


def shown_metrics(record: dict[str, Any]) -> dict[str, float]:
    """The final figures: of the run's selection rule, of the others, of baselines, and the gain."""
    metrics = {name: value for name, value in record["metrics"].items() if value is not None}
    metrics |= {
        f"baseline/{name}": value["metrics"]["target/test/accuracy"] for name, value in record["baselines"].items()
    }
    if record["transfer"]:
        metrics["gain"] = record["transfer"]["gain"]
    for rule, entry in record["selection"].items():
        if isinstance(entry, Mapping):
            metrics[f"selection/{rule}/target/test/accuracy"] = entry["target/test/accuracy"]
    for name, result in record["after"].items():
        metrics |= {f"after/{name}/{metric}": value for metric, value in result["metrics"].items()}
    return metrics | open_set_metrics(record)


def describe_device(device: torch.device) -> str:
    """The device by name, with what decides rounding on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    num_threads = torch.get_num_threads()
    return f"{device.type}, {num_threads} thread{'' if num_threads == 1 else 's'}"


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the device where it has its own, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def target_settings(experiment: Experiment, training: Training) -> dict[str, Any]:
    """The plain settings that shape the target stage beside its strategy."""
    settings = {name: experiment.config[name] for name in ("objective", "scheduler", "head", "mapping")}
    settings["optimizer"] = optimizer_settings(experiment.config["optimizer"], training)
    return settings | {"regulariser": experiment.config["regulariser"] if training.regularisers else {}}


def data_settings(domain: Domain) -> dict[str, Any]:
    """What a stage's weights depend on of a domain that it has beside its own."""
    return {"data": domain.fingerprint, **domain.batch_settings}


def optimizer_settings(settings: dict[str, Any], training: Training) -> dict[str, Any]:
    """The optimiser's settings at the rate that is trained with, given by hand or found."""
    return settings | {"lr": training.lr}


def preprocessing_of(domain: Domain) -> dict[str, str]:
    """The preprocessing as metadata of a weights file."""
    assert domain.preprocessing is not None
    return {"preprocessing": json.dumps(domain.preprocessing.as_dict())}


def selected(outcome: Outcome, experiment: Experiment) -> dict[str, Any]:
    """Scores on the target's test split under the run's selection rule."""
    scores: dict[str, Any] = outcome.under(experiment.selection.rule)["test"]
    return scores


def say(stage: str, domain: Domain, accuracy: float, seconds: float, from_store: bool = False) -> None:
    """One line for a finished stage."""
    log.info("%-10s %-16s test accuracy %.4f   %s", stage, domain.name, accuracy, time_spent(seconds, from_store))


def time_spent(seconds: float, from_store: bool) -> str:
    """Seconds in words.

    >>> time_spent(1.25, False), time_spent(1.25, True)
    ('1.2 s', 'from the store')
    """
    return "from the store" if from_store else f"{seconds:.1f} s"


def plan(experiment: Experiment) -> list[dict[str, Any]]:
    """What the transfer stage would train when: one row a phase and layer group (`strategies.plan.plan_table`)."""
    network, training = planned_network(experiment), experiment.transfer
    phases = training.phases(network)
    settings = getattr(training.decaying_optimizer, "keywords", {})
    lr = None if training.lr == "auto" else settings["lr"]
    return plan_table(network, phases, lr, settings.get("weight_decay") or 0.0)


def plan_adapter(experiment: Experiment) -> dict[str, Any] | None:
    """What the transfer stage's adapter would be (`summary.describe_adapter`), None without one."""
    if experiment.adapter is None:
        return None
    network, training = planned_network(experiment), experiment.transfer
    phases = training.phases(network)
    return describe_adapter(network, max((num_trained(network, phase) for phase in phases), default=0))


def planned_network(experiment: Experiment) -> Network:
    """The network of the transfer stage, its backbone with random weights."""
    if experiment.adapts:
        load_domains(experiment)
    else:
        experiment.target.load(prepared_inputs(experiment)[1])
    return transfer_network(experiment)


def written_plan(experiment: Experiment, name: str) -> dict[str, Any]:
    """What `plan` shows, as the settings of a strategy called `name` (`strategies.written.written_out`)."""
    training = experiment.transfer
    return written_out(training.strategy, name, planned_network(experiment), training.max_epochs)
