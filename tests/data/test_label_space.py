"""Declared label spaces are checked by class name, and the target's labels become the source's numbers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import write_arrays

from graft.data.aligned import align
from graft.data.domain import Domain
from graft.data.label_space import Kind, LabelSpace, compare
from graft.data.readers.arrays import Arrays
from graft.errors import UserError
from graft.models.backbones.cnn import Cnn


def classes(name: str, names: str) -> Any:
    return SimpleNamespace(name=name, class_names=tuple(names))


@pytest.mark.parametrize(
    ("kind", "source", "target", "found"),
    [
        ("closed", "abc", "cab", LabelSpace("closed", (), ())),
        ("partial", "abc", "ca", LabelSpace("partial", ("b",), ())),
        ("partial", "abc", "abc", LabelSpace("partial", (), ())),
        ("open", "abc", "axbcy", LabelSpace("open", (), ("x", "y"))),
    ],
)
def test_fits(kind: Kind, source: str, target: str, found: LabelSpace) -> None:
    assert compare(kind, classes("s", source), classes("t", target)) == found


@pytest.mark.parametrize(
    ("kind", "source", "target", "reason"),
    [
        ("closed", "abc", "ab", "t lacks c; label_space=partial allows for that"),
        ("closed", "ab", "abc", "s lacks c; label_space=open allows for that"),
        ("closed", "ab", "bc", "t lacks a; s lacks c; no label_space allows for both"),
        ("partial", "ab", "abc", "s lacks c; label_space=open allows for that"),
        ("open", "abc", "ab", "t lacks c; label_space=partial allows for that"),
        ("open", "ab", "ab", "they have the same here; label_space=closed allows for that"),
        ("open", "ab", "bc", "no label_space allows for both"),
        ("closed", "ab", "abcdefghijklmno", "s lacks c, d, e, f, g, h, i, j, k, l and 3 more;"),
    ],
)
def test_is_refused_with_the_classes_that_are_missing(kind: Kind, source: str, target: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        compare(kind, classes("s", source), classes("t", target))
    assert str(error.value).startswith(f"label_space={kind} means that ")
    assert reason in str(error.value)


def domain(folder: Path, names: str, **settings: Any) -> Domain:
    """A domain with 20 training images of each class."""
    path = write_arrays(folder / f"{names}.npz", num_classes=len(names))
    np.savez(path, **dict(np.load(path)), class_names=list(names))
    found = Domain("t", Arrays(path=str(path)), val_fraction=0.2, **settings)
    found.load(Cnn().preprocessing)
    return found


def names_by_position(found: Domain, names: tuple[str, ...], *splits: str) -> dict[tuple[str, int], str]:
    """The class name of each image of some splits."""
    parts = found.datasets | {"pool": found.pool}
    return {
        (split, int(position)): [*names, "unknown"][int(label)]
        for split in splits
        for position, label in zip(parts[split].positions, parts[split].labels, strict=True)
    }


def test_a_partial_targets_labels_become_the_sources_numbers(tmp_path: Path) -> None:
    found, splits = domain(tmp_path, "ca"), ("train", "val", "test", "pool")
    before = names_by_position(found, found.class_names, *splits)
    fingerprint, any_split = found.fingerprint, found.fingerprint_of_any_split
    align(found, LabelSpace("partial", ("b",), ()), ("a", "b", "c"))
    assert names_by_position(found, ("a", "b", "c"), *splits) == before
    assert (found.class_names, found.num_classes, found.view.num_classes) == (("a", "b", "c"), 3, 3)
    assert found.fingerprint != fingerprint
    assert found.fingerprint_of_any_split != any_split


def test_the_same_classes_leave_the_fingerprint(tmp_path: Path) -> None:
    found = domain(tmp_path, "ab")
    fingerprint, labels = found.fingerprint, found.datasets["test"].labels
    align(found, LabelSpace("closed", (), ()), ("a", "b"))
    assert found.fingerprint == fingerprint
    assert torch.equal(found.datasets["test"].labels, labels)


@pytest.mark.parametrize("budget", [None, 2])
def test_unknown_images_are_apart_in_test_and_have_no_label_in_training(tmp_path: Path, budget: int | None) -> None:
    found = domain(tmp_path, "axb", labels_per_class=budget)
    whole = found.with_all_images().datasets["train"].positions
    align(found, LabelSpace("open", (), ("x",)), ("a", "b"))
    assert found.sizes["test"] == 20
    assert found.sizes["unknown"] == 10
    assert set(found.datasets["unknown"].labels.tolist()) == {2}
    assert set(found.datasets["test"].labels.tolist()) == set(found.datasets["val"].labels.tolist()) == {0, 1}
    assert torch.equal(found.with_all_images().datasets["train"].positions, whole)
    assert int((found.pool.labels == 2).sum()) == 16
    if budget:
        assert found.datasets["train"].labels.bincount().tolist() == [2, 2]
