"""Scores of a trained network on labelled data."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from graft.data.domain import Domain
from graft.data.label_space import MOST_NAMES
from graft.errors import UserError, listed
from graft.evaluation import evaluation_loader, predict, scores
from graft.inference.choices import SPLITS
from graft.inference.trained import Trained


def judge(trained: Trained, domain: Domain, split: str, device: torch.device) -> dict[str, Any]:
    """Scores on a split of a domain of the same classes, as `evaluation.scores` has them.

    Returns:
        `num_images`, `scores` of the network as it is, and where there is a temperature `calibrated` ones.

    Raises:
        UserError: the domain's classes are not the network's, or the split is empty.
    """
    domain.load(trained.preprocessing)
    check_same_classes(trained.class_names, domain)
    filled = [part for part in SPLITS[split] if domain.sizes[part]]
    if not filled:
        raise UserError(f"{domain.name}: has no {split} samples")
    loader = chain.from_iterable(evaluation_loader(domain, part) for part in filled)
    logits, labels = predict(trained.network, loader, domain.view, device)
    found = {"num_images": len(labels), "scores": scores(logits, labels)}
    if trained.temperature is not None:
        found["calibrated"] = scores(trained.calibrated(logits), labels)
    return found


def check_same_classes(class_names: Sequence[str], domain: Domain) -> None:
    """Refuse data whose labels do not mean what the network's outputs mean.

    Raises:
        UserError: with the names that only one of the two has, or the first that stand at different places.
    """
    run, data = list(class_names), list(domain.class_names)
    if run == data:
        return
    differences = [
        f"only {owner}: {listed((repr(name) for name in names if name not in others), MOST_NAMES)}"
        for owner, names, others in (("the run", run, data), (domain.name, data, run))
        if set(names) - set(others)
    ]
    if not differences:
        first = next(index for index, (mine, theirs) in enumerate(zip(run, data, strict=False)) if mine != theirs)
        differences = [f"class {first} is {run[first]!r} in the run and {data[first]!r} in {domain.name}"]
    raise UserError(f"the classes of {domain.name} are not those of the run: {'; '.join(differences)}")
