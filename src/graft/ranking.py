"""Which candidate promises the best transfer, from what its backbone makes of the target's training samples."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graft.experiment import Experiment
from graft.models.weights import WeightsFile, linear_classifier
from graft.outcome import Start
from graft.pipeline import feature_cache, load_domains, pretrain, settle_all, target_network
from graft.records.store import Store
from graft.scores.base import Score, double, inputs_of
from graft.stage import MEMORY_FORMATS, backbone_features, inference

log = logging.getLogger(__name__)


def judge(experiment: Experiment, scores: Mapping[str, Score], folder: Path) -> dict[str, Any]:
    """The scores of one candidate, and what they cost.

    The starting weights are those of a run: read from a file, or pretrained on the source unless the store has them.
    Features are those of the target's training samples, in eval mode and without augmentation, from the cache that a
    linear probe uses.

    Args:
        experiment: the candidate, as it would be run.
        scores: by name.
        folder: for what pretraining leaves.

    Returns:
        Plain values: where the weights are from, sizes, seconds, and `scores` and `score_seconds` by name; None for a
        score that needs the source's classifier where it is not known.

    Raises:
        UserError: what the user pointed at cannot be used.
    """
    weights = load_domains(experiment)
    experiment, _ = settle_all(experiment, Store(experiment.store))
    start = pretrain(experiment, weights, Store(experiment.store), folder)
    began = time.monotonic()
    features = double(target_features(experiment, start))
    features_seconds = time.monotonic() - began
    target = experiment.target
    inputs = {"features": features, "labels": target.datasets["train"].labels}
    classifier = source_classifier(experiment, start, weights)
    if classifier is not None:
        inputs["source_probabilities"] = probabilities(features, *classifier)
    values, seconds = measure(scores, inputs)
    return {
        "weights": start.origin,
        "weights_key": start.key,
        "target_data": target.fingerprint,
        "num_samples": len(features),
        "num_classes": target.num_classes,
        "num_features": features.shape[1],
        "pretrain_seconds": start.seconds,
        "features_seconds": features_seconds,
        "scores": values,
        "score_seconds": seconds,
    }


def target_features(experiment: Experiment, start: Start) -> Tensor:
    """Features [n, d] of the target's training samples under the starting weights, computed as a run's stages do."""
    training = experiment.transfer
    network = target_network(experiment)
    if start.backbone:
        network.backbone.load_state_dict(start.backbone)
    network.to(memory_format=MEMORY_FORMATS[training.memory_format])
    trainer = training.plain_trainer()
    trainer.precision_plugin.convert_module(network)
    how = inference(training, trainer, network)
    return backbone_features(experiment.target, network, how, feature_cache(experiment))


def source_classifier(
    experiment: Experiment, start: Start, weights: WeightsFile | None
) -> tuple[Tensor, Tensor] | None:
    """Weight [s, d] and bias [s] with which the source's classes are told from the features; None if not known.

    Those of the source stage, or those that the weights' file holds for the backbone as it is in the file.
    """
    if start.source_head:
        return start.source_head["linear.weight"], start.source_head["linear.bias"]
    if start.origin == "scratch" or weights is None or experiment.reinitialise:
        return None
    return linear_classifier(experiment.backbone(), weights.state)


def probabilities(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The source's class probabilities [n, s] of features [n, d]."""
    return torch.addmm(double(bias), features, double(weight).T).softmax(dim=1)


def measure(
    scores: Mapping[str, Score], inputs: Mapping[str, Tensor]
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Value and seconds of each score, None for those that need more than the inputs there are."""
    values: dict[str, float | None] = {}
    seconds: dict[str, float | None] = {}
    for name, score in scores.items():
        needed = inputs_of(score)
        if not needed <= inputs.keys():
            values[name] = seconds[name] = None
            continue
        began = time.monotonic()
        values[name] = float(score(**{key: inputs[key] for key in needed}))
        seconds[name] = time.monotonic() - began
    return values, seconds
