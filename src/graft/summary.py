"""From what a run computed to what its record says."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graft.callbacks.candidates import SECONDS
from graft.callbacks.choices import ORACLE_RULE
from graft.evaluation import MOST_ERRORS, commonest_errors
from graft.experiment import Experiment
from graft.models.adapters.base import count_reasons
from graft.models.network import Network
from graft.outcome import Outcome, Start
from graft.records.hashing import code_fingerprint, content_hash
from graft.records.record import environment

SCORES = ("accuracy", "loss", "calibration_error", "brier_score")


def describe_run(
    experiment: Experiment,
    start: Start,
    outcome: Outcome,
    source_after: dict[str, Any],
    baselines: Mapping[str, Outcome],
    backbone: str,
    device: str,
) -> dict[str, Any]:
    """The part of the record that is known when all is done."""
    config = experiment.config
    rule = experiment.selection.rule
    source_scores = {"test": start.source_scores} if start.source_scores else {}
    metrics = flat_scores(outcome.under(rule), "target") | flat_scores(source_scores, "source")
    if source_after:
        metrics["source/test/accuracy_after_transfer"] = source_after["accuracy"]
    return {
        "source": experiment.source.name if experiment.source else None,
        "target": experiment.target.name,
        "backbone": backbone,
        "strategy": experiment.transfer.strategy.name,
        "objective": config["objective"]["_target_"].rpartition(".")[2],
        "weights": start.origin,
        "metrics": metrics,
        "selection": describe_choices(outcome) | {"rule": rule, "best_epoch": outcome.best_epoch},
        "baselines": {name: describe_baseline(baseline, rule) for name, baseline in baselines.items()},
        "transfer": describe_transfer(outcome, baselines, rule),
        "training_labels": num_labels(experiment),
        "cost": describe_cost(start, outcome, baselines),
        "fingerprints": fingerprints(experiment, start, device),
        "classes": describe_classes(experiment, outcome.under(rule)["test"]),
        "reliability": outcome.under(rule)["test"]["reliability"],
        "history": outcome.history,
        "chosen": outcome.chosen,
        "learning_rates": searches(start, outcome, baselines),
        "micro_batches": micro_batches(start, outcome, baselines),
    }


def num_labels(experiment: Experiment) -> int:
    """How many labels of the target are trained on: under adaptation, those of its label budget alone."""
    target = experiment.target
    return 0 if experiment.adapts and not target.partly_labelled else target.sizes["train"]


def describe_adapter(network: Network, trainable_parameters: int) -> dict[str, Any] | None:
    """An adapter's kind, what is trained with it, and the layers it took and could not take; None without one.

    `parameters` are its own; `trainable_parameters` are the most that any phase trains, the head's among them, and
    `share` is their share of the network's.
    """
    adaptation = network.backbone.adaptation
    if adaptation is None:
        return None
    sizes = {name: parameter.numel() for name, _, parameter in network.named_group_parameters()}
    return {
        "kind": adaptation.adapter.name,
        "parameters": sum(sizes[f"backbone.{name}"] for name in adaptation.added),
        "trainable_parameters": trainable_parameters,
        "share": trainable_parameters / sum(sizes.values()),
        "layers": list(adaptation.layers),
        "skipped": count_reasons(adaptation.skipped),
        **adaptation.adapter.report(network.backbone),
    }


def searches(start: Start, outcome: Outcome, baselines: Mapping[str, Outcome]) -> dict[str, dict[str, Any]]:
    """How the learning rate of each stage was found that left it open, by the stage's name."""
    found = {"pretrain": start.search, "transfer": outcome.search}
    found |= {name: baseline.search for name, baseline in baselines.items()}
    return {name: search for name, search in found.items() if search}


def micro_batches(start: Start, outcome: Outcome, baselines: Mapping[str, Outcome]) -> dict[str, int]:
    """How many samples went through the network at once in each stage whose batches did not fit into memory, by name.

    Their gradients were added up to those of a batch.
    """
    found = {"pretrain": start.micro_batch, "transfer": outcome.micro_batch}
    found |= {name: baseline.micro_batch for name, baseline in baselines.items()}
    return {name: size for name, size in found.items() if size is not None}


def flat_scores(scores: Mapping[str, Mapping[str, Any]], domain: str) -> dict[str, float]:
    """`{"test": {"accuracy": ...}}` as `{"target/test/accuracy": ...}`, scalars only.

    Scores that the store kept for an earlier version may lack some.
    """
    return {
        f"{domain}/{split}/{name}": values[name]
        for split, values in scores.items()
        for name in SCORES
        if name in values
    }


def describe_choices(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """For each selection rule the epoch that it chose, the score that it chose by, and what the network gets right.

    `collapsed` says that no epoch was fit to be chosen, and `uses_test_labels` that this is no honest choice.
    """
    return {
        rule: outcome.choices[rule]
        | ({"uses_test_labels": True} if rule == ORACLE_RULE else {})
        | flat_scores(scores, "target")
        for rule, scores in outcome.scores.items()
    }


def describe_baseline(outcome: Outcome, rule: str) -> dict[str, Any]:
    """A baseline's metrics, cost and learning curve."""
    return {
        "metrics": flat_scores(outcome.under(rule), "target"),
        "seconds": outcome.seconds,
        "steps": outcome.steps,
        "trainable_parameters": outcome.trainable_parameters,
        "reliability": outcome.under(rule)["test"].get("reliability"),
        "history": outcome.history,
    }


def describe_transfer(outcome: Outcome, baselines: Mapping[str, Outcome], rule: str) -> dict[str, Any]:
    """The gain over scratch, or over the first baseline where scratch is not among them; empty without baselines."""
    if not baselines:
        return {}
    name = "scratch" if "scratch" in baselines else next(iter(baselines))
    baseline = baselines[name]
    accuracies = [each.under(rule)["test"]["accuracy"] for each in (outcome, baseline)]
    return {"baseline": name} | transfer_gain(accuracies[0], outcome.history, accuracies[1], baseline.history)


def transfer_gain(
    accuracy: float, history: list[dict[str, Any]], baseline_accuracy: float, baseline_history: list[dict[str, Any]]
) -> dict[str, Any]:
    """What transfer gained over a baseline on the same labels and budget.

    Args:
        accuracy: on the target's test split, in [0, 1], under the run's selection rule.
        history: one row an epoch, with `step`, `seconds` and, where there is a val split, `val/accuracy`.
        baseline_accuracy: the baseline's, likewise.
        baseline_history: the baseline's.

    Returns:
        `gain` (difference of the accuracies), `negative` (whether transfer hurt); the epoch, step and seconds at which
        the validation accuracy first reached the baseline's best, those at which the baseline reached it itself, and
        by what factor the steps and seconds were fewer; `mean_lead` (see there). None where it was never reached or
        not measured.
    """
    best = best_value(baseline_history, "val/accuracy")
    passed, reached = first_to_reach(history, best), first_to_reach(baseline_history, best)
    return {
        "gain": accuracy - baseline_accuracy,
        "negative": accuracy < baseline_accuracy,
        "epochs_to_pass_baseline": passed["epoch"] if passed else None,
        "steps_to_pass_baseline": passed["step"] if passed else None,
        "seconds_to_pass_baseline": passed["seconds"] if passed else None,
        "epochs_to_baseline_best": reached["epoch"] if reached else None,
        "steps_to_baseline_best": reached["step"] if reached else None,
        "seconds_to_baseline_best": reached["seconds"] if reached else None,
        "speedup_in_steps": reached["step"] / passed["step"] if reached and passed else None,
        "speedup_in_seconds": reached["seconds"] / passed["seconds"] if reached and passed else None,
        "mean_lead": mean_lead(history, baseline_history),
        "baseline_steps": baseline_history[-1]["step"] if baseline_history else 0,
        "baseline_seconds": baseline_history[-1]["seconds"] if baseline_history else 0.0,
    }


def best_value(history: list[dict[str, Any]], metric: str) -> float | None:
    """The highest value of `metric`, None where it was never measured."""
    return max((row[metric] for row in history if metric in row), default=None)


def first_to_reach(history: list[dict[str, Any]], value: float | None) -> dict[str, Any] | None:
    """The first row whose validation accuracy is at least `value`."""
    if value is None:
        return None
    return next((row for row in history if row.get("val/accuracy", -1.0) >= value), None)


def mean_lead(history: list[dict[str, Any]], baseline_history: list[dict[str, Any]]) -> float | None:
    """How far the validation accuracy lay above the baseline's at the same step, on average.

    The area between the learning curves, straight between epochs, over the steps that both cover; None where there are
    none.
    """
    curves = [
        [(row["step"], row["val/accuracy"]) for row in rows if "val/accuracy" in row]
        for rows in (history, baseline_history)
    ]
    if not all(curves):
        return None
    (steps, values), (baseline_steps, baseline_values) = (np.array(curve, dtype=float).T for curve in curves)
    begin, end = max(steps[0], baseline_steps[0]), min(steps[-1], baseline_steps[-1])
    if begin > end:
        return None
    at = np.unique(np.clip([*steps, *baseline_steps], begin, end))
    lead = np.interp(at, steps, values) - np.interp(at, baseline_steps, baseline_values)
    return float(np.trapezoid(lead, at) / (end - begin) if end > begin else lead[0])


def describe_cost(start: Start, outcome: Outcome, baselines: Mapping[str, Outcome]) -> dict[str, Any]:
    """Seconds by stage (as they were when the stage was trained, also where the store had it), steps, parameters."""
    return {
        "pretrain_seconds": start.seconds,
        "fit_seconds": outcome.seconds,
        "baseline_seconds": sum(baseline.seconds for baseline in baselines.values()),
        "selection_seconds": sum(row.get(SECONDS, 0.0) for row in outcome.history),
        "search_seconds": sum(search["seconds"] for search in searches(start, outcome, baselines).values()),
        "steps": outcome.steps,
        "epochs": len(outcome.history),
        "trainable_parameters": outcome.trainable_parameters,
        "num_parameters": outcome.num_parameters,
    }


def fingerprints(experiment: Experiment, start: Start, device: str) -> dict[str, Any]:
    """What two records must share before their figures may be averaged; splits of another seed may differ."""
    assert experiment.target.preprocessing is not None
    source = experiment.source if start.origin == "source" else None
    return {
        "target_data": experiment.target.fingerprint,
        "source_data": source.fingerprint if source else None,
        "target_data_of_any_split": experiment.target.fingerprint_of_any_split,
        "source_data_of_any_split": source.fingerprint_of_any_split if source else None,
        "preprocessing": content_hash(experiment.target.preprocessing.as_dict()),
        "weights": start.key,
        "code": code_fingerprint(),
        "packages": content_hash(environment()["packages"]),
        "device": device,
    }


def describe_classes(experiment: Experiment, test: Mapping[str, Any]) -> dict[str, Any]:
    """Per class: name, accuracy, and the confusion matrix with labels as rows."""
    return {
        "names": list(experiment.target.class_names),
        "accuracy": test["accuracy_by_class"],
        "confusion": test["confusion"],
        "most_confused": most_confused(test["confusion"], experiment.target.class_names),
    }


def most_confused(
    confusion: Sequence[Sequence[int]], names: Sequence[str], num: int = MOST_ERRORS
) -> list[dict[str, Any]]:
    """The `num` commonest errors of a confusion matrix [k, k] whose rows are labels, by `samples`, most first.

    `share` is that of the samples of the label.
    """
    return [
        {
            "label": names[row],
            "predicted": names[column],
            "samples": confusion[row][column],
            "share": confusion[row][column] / sum(confusion[row]),
        }
        for row, column in commonest_errors(confusion, num)
    ]
