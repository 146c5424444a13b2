"""A target in the classes of the source that it is adapted from."""

import torch
from torch import Tensor

from graft.data.datasets import LabelledImages
from graft.data.domain import Domain
from graft.data.label_space import LabelSpace
from graft.records.hashing import content_hash

UNKNOWN = "unknown"  # the split with the test images of classes that the source lacks


def align(target: Domain, space: LabelSpace, class_names: tuple[str, ...]) -> None:
    """Number a loaded domain's labels as the source does, whose classes are `class_names`.

    Images of classes that the source lacks have the label k. Those of `test` are in a split of their own, `unknown`.
    There are none in `val`, and none among the images whose labels are trained on; those are in `pool` then.
    """
    if target.class_names != class_names:
        for name in ("fingerprint", "fingerprint_of_any_split"):
            setattr(target, name, content_hash({"data": getattr(target, name), "classes": class_names}))
    numbers = torch.tensor(
        [class_names.index(name) if name in class_names else len(class_names) for name in target.class_names]
    )
    splits = {name: renumbered(split, numbers) for name, split in target.datasets.items()}
    target.pool = renumbered(target.pool, numbers)
    if space.target_only:
        known = {name: split.labels < len(class_names) for name, split in splits.items()}
        splits[UNKNOWN] = chosen(splits["test"], ~known["test"])
        splits["test"] = chosen(splits["test"], known["test"])
        splits["val"] = chosen(splits["val"], known["val"])
        if target.partly_labelled:
            target.pool = both(target.pool, chosen(splits["train"], ~known["train"]))
            splits["train"] = chosen(splits["train"], known["train"])
    target.datasets = splits
    target.sizes = {name: len(split) for name, split in splits.items()}
    target.class_names, target.num_classes = class_names, len(class_names)
    target.label_space = space
    target.begin(target.seed, target.first_epoch)  # its view mixes labels of these classes


def renumbered(dataset: LabelledImages, numbers: Tensor) -> LabelledImages:
    """The same images, label l replaced by numbers[l]."""
    return LabelledImages(dataset.images, dataset.positions, numbers[dataset.labels])


def both(one: LabelledImages, other: LabelledImages) -> LabelledImages:
    """The samples of two choices from the same images."""
    positions = torch.cat([one.positions, other.positions])
    return LabelledImages(one.images, positions, torch.cat([one.labels, other.labels]))


def chosen(dataset: LabelledImages, which: Tensor) -> LabelledImages:
    """The samples where booleans [n] are true."""
    return LabelledImages(dataset.images, dataset.positions[which], dataset.labels[which])
