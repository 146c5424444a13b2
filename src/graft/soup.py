"""Model soups: the mean of the weights of runs that fine-tuned the same network from the same start.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time", ICML 2022.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from graft.after.base import load_average
from graft.averaging import State
from graft.errors import UserError
from graft.evaluation import evaluate
from graft.experiment import Experiment
from graft.models.network import Network
from graft.models.weights import read_weights, save_weights
from graft.pipeline import preprocessing_of, settle_all, target_network
from graft.records.store import Store
from graft.stage import Stage
from graft.summary import flat_scores

VAL_ACCURACY = "target/val/accuracy"


@dataclass(frozen=True)
class Soup:
    """The mean of some runs' weights."""

    kind: str  # "uniform" or "greedy"
    members: tuple[int, ...]  # positions of its runs
    metrics: dict[str, float]
    classes: dict[str, Any]


def make_soups(experiment: Experiment, runs: Sequence[tuple[Path, dict[str, Any]]], folder: Path) -> list[Soup]:
    """The uniform and the greedy soup of runs, their weights in folders of these names.

    Args:
        experiment: that of one of the runs, for the network and the target.
        runs: (folder, record) of each; they share network, target and starting weights.
        folder: where to write.

    Raises:
        UserError: the data have changed since, or the weights are not those of one network.
    """
    stage, network = open_kitchen(experiment, runs[0])
    states = [load_file(run / "weights" / "network.safetensors") for run, _ in runs]
    accuracies = [record["metrics"][VAL_ACCURACY] for _, record in runs]

    def val_accuracy(members: Sequence[int]) -> float:
        load_mean(stage, network, states, members)
        accuracy: float = evaluate(network, stage.domain, "val", stage.training.device)["accuracy"]
        return accuracy

    chosen = {"uniform": tuple(range(len(runs))), "greedy": tuple(greedy_members(accuracies, val_accuracy))}
    return [serve(kind, members, stage, network, states, folder / kind) for kind, members in chosen.items()]


def open_kitchen(experiment: Experiment, run: tuple[Path, dict[str, Any]]) -> tuple[Stage, Network]:
    """The network, and the stage whose data and trainer judge it, as in the run.

    Raises:
        UserError: the data have changed since.
    """
    folder, record = run
    target, backbone = experiment.target, experiment.backbone()
    preprocessing = read_weights(str(folder), backbone).preprocessing or backbone.preprocessing
    target.load(preprocessing)
    if target.fingerprint != record["fingerprints"]["target_data"]:
        raise UserError(f"{folder}: the data of target {target.name} are no longer those of the run")
    experiment, _ = settle_all(experiment, Store(experiment.store))
    network = target_network(experiment)
    if hasattr(network.mapping, "solve") and experiment.source is not None:
        experiment.source.load(target.rendered(preprocessing))
    training = experiment.transfer
    training.plain_trainer().precision_plugin.convert_module(network)
    return Stage("soup", "", training, target, experiment.source, training.seed, folder, (), None), network


def load_mean(stage: Stage, network: Network, states: Sequence[State], members: Sequence[int]) -> None:
    """Load the mean of the members' weights."""
    load_average(stage, network, [states[i] for i in members], [1.0] * len(members))


def greedy_members(accuracies: Sequence[float], accuracy_of: Callable[[Sequence[int]], float]) -> list[int]:
    """The runs of the greedy soup, in the order in which they joined it (recipe 1).

    From the best run on val to the worst, each joins if the soup is then at least as accurate on val.

    Args:
        accuracies: of each run on val.
        accuracy_of: that of the mean of some runs on val.
    """
    first, *others = sorted(range(len(accuracies)), key=lambda i: -accuracies[i])
    members, best = [first], accuracies[first]
    for candidate in others:
        accuracy = accuracy_of([*members, candidate])
        if accuracy >= best:
            members, best = [*members, candidate], accuracy
    return members


def serve(
    kind: str, members: tuple[int, ...], stage: Stage, network: Network, states: Sequence[State], folder: Path
) -> Soup:
    """Score a soup and write its weights, as those of a run."""
    load_mean(stage, network, states, members)
    target = stage.domain
    found = {split: evaluate(network, target, split, stage.training.device) for split in ("test", "val")}
    for name, module in (("backbone", network.backbone), ("network", network)):
        save_weights(module, folder / "weights" / f"{name}.safetensors", preprocessing_of(target))
    test = found["test"]
    classes = {"names": list(target.class_names), "accuracy": test["accuracy_by_class"], "confusion": test["confusion"]}
    return Soup(kind, members, flat_scores(found, "target"), classes)
