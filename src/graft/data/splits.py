"""Which samples are trained on, validated on and tested on: pure functions of labels and a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graft.errors import UserError
from graft.seeds import stable_seed


@dataclass(frozen=True)
class SplitRules:
    """How a domain is split and how many labels its training split keeps."""

    labels_per_class: int | None = None  # exactly so many in each class; None keeps all
    fraction: float | None = None  # share of each class that is kept, at least one sample; None keeps all
    val_fraction: float = 0.1  # share of the training samples held out for validation
    test_fraction: float = 0.2  # share held out for testing where the data come without a test split
    seed: int = 0

    def __post_init__(self) -> None:
        if self.labels_per_class is not None and self.fraction is not None:
            raise UserError(
                f"labels_per_class={self.labels_per_class} and fraction={self.fraction}: give one of the two"
            )
        if self.labels_per_class is not None and self.labels_per_class < 1:
            raise UserError(f"labels_per_class={self.labels_per_class}: expected a positive number")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UserError(f"fraction={self.fraction}: expected a number above 0 and at most 1")
        for name in ("val_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: expected a number from 0 to below 1")


@dataclass(frozen=True)
class Split:
    """Positions, in ascending order, of the samples of each part; `pool` is `train` before the label budget."""

    train: np.ndarray
    pool: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_samples(
    labels: np.ndarray, class_names: Sequence[str], rules: SplitRules, hold_out_val: bool, hold_out_test: bool
) -> Split:
    """Split the samples of `labels` [n] by class.

    Each class is put in a random order that depends on the seed and the class alone. Test samples are taken from its
    end, then validation samples, and the label budget from its beginning: budgets are nested, whatever their size.

    Raises:
        UserError: a class holds fewer samples than the budget asks for.
    """
    orders = class_orders(labels, len(class_names), rules.seed)
    sizes = np.array([len(order) for order in orders], dtype=np.int64)
    num_test = hold_out_counts(sizes, rules.test_fraction if hold_out_test else 0.0)
    num_val = hold_out_counts(sizes - num_test, rules.val_fraction if hold_out_val else 0.0)
    num_pool = sizes - num_test - num_val
    num_train = budget_counts(num_pool, class_names, rules)

    def take(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        parts = [order[a:b] for order, a, b in zip(orders, start, stop, strict=True)]
        return np.sort(np.concatenate(parts))

    zero = np.zeros_like(sizes)
    return Split(
        train=take(zero, num_train),
        pool=take(zero, num_pool),
        val=take(num_pool, num_pool + num_val),
        test=take(num_pool + num_val, sizes),
    )


def class_orders(labels: np.ndarray, num_classes: int, seed: int) -> list[np.ndarray]:
    """The positions of each class in a random order of its own."""
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))[:-1]
    members = np.split(np.argsort(labels, kind="stable"), ends)
    return [
        np.random.default_rng(stable_seed(seed, "split", label)).permutation(positions)
        for label, positions in enumerate(members)
    ]


def hold_out_counts(sizes: np.ndarray, fraction: float) -> np.ndarray:
    """How many samples of each class [k] to hold out: `fraction` of all, shared out by largest remainder.

    No class loses its last sample.
    """
    quotas = sizes * fraction
    counts = np.floor(quotas).astype(np.int64)
    num_left = round(float(quotas.sum())) - int(counts.sum())
    largest_first = np.argsort(counts - quotas, kind="stable")
    counts[largest_first[:num_left]] += 1
    return np.minimum(counts, np.maximum(sizes - 1, 0))


def budget_counts(sizes: np.ndarray, class_names: Sequence[str], rules: SplitRules) -> np.ndarray:
    """How many samples of each class [k] the label budget keeps.

    Raises:
        UserError: a class holds fewer samples than `labels_per_class`.
    """
    if rules.labels_per_class is not None:
        smallest = int(sizes.argmin())
        if sizes[smallest] < rules.labels_per_class:
            raise UserError(
                f"labels_per_class={rules.labels_per_class}: class {class_names[smallest]!r} has {sizes[smallest]} "
                "training samples after those held out for validation and testing"
            )
        return np.full_like(sizes, rules.labels_per_class)
    if rules.fraction is not None:
        return np.maximum(np.rint(sizes * rules.fraction).astype(np.int64), np.minimum(sizes, 1))
    return sizes
