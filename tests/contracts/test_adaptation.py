"""Every method of `conf/adaptation` trains, resumes bit-equal, and never looks at a label of the target."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import Interrupt, network, stage, tiny_domain, training, write_arrays
from conf_plugins import build, load, names
from hydra.core.config_loader import ConfigLoader
from pytorch_lightning import Callback

from graft.adaptation.base import Adaptation
from graft.build.validation import validate
from graft.cli.compose import compose
from graft.data.domain import Domain
from graft.stage import Fitted, fit_stage

METHODS = [
    name for name in names("adaptation") if all(build(node).trains for node in load("adaptation", name).values())
]
METHODS.remove("none")
ADAPTS = ("target.labels_per_class=null", "backbone=resnet20")


def methods(name: str) -> dict[str, Adaptation]:
    return {key: build(node) for key, node in load("adaptation", name).items()}


def fit(folder: Path, domains: tuple[Domain, Domain], name: str, *callbacks: Callback, precision: str = "32") -> Fitted:
    how = replace(training(max_epochs=2, callbacks=callbacks, precision=precision), adaptation=methods(name))
    source, target = domains
    return fit_stage(replace(stage(folder, source, how), unlabelled=target), network())


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Domain, Domain]:
    """A source of about 30 training images, and a target of 36 others, in batches of different sizes."""
    return domains_in(tmp_path_factory.mktemp("domains"))


def domains_in(folder: Path, labels: Callable[[np.ndarray], np.ndarray] = np.asarray) -> tuple[Domain, Domain]:
    """The two domains, the target's labels as `labels` makes them of the right ones."""
    for name, seed in (("source", 0), ("target", 1)):
        (folder / name).mkdir()
        path = write_arrays(folder / name / "tiny.npz", num_per_class=12, seed=seed)
        if name == "target":
            arrays = dict(np.load(path))
            np.savez(path, **arrays | {key: labels(arrays[key]) for key in ("y_train", "y_test")})
    return tiny_domain(folder / "source", batch_size=12), tiny_domain(folder / "target", batch_size=8, val_fraction=0.0)


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in history]


def assert_same(one: Fitted, other: Fitted) -> None:
    assert without_times(one.history) == without_times(other.history)
    assert all(torch.equal(tensor, other.last[name]) for name, tensor in one.last.items())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, domains: tuple[Domain, Domain]) -> Callable[[str], Fitted]:
    """Each method fitted once."""
    found: dict[str, Fitted] = {}

    def once(name: str) -> Fitted:
        if name not in found:
            found[name] = fit(tmp_path_factory.mktemp(name), domains, name)
        return found[name]

    return once


@pytest.mark.parametrize("name", METHODS)
def test_trains_and_goes_on_bit_equal(
    name: str, tmp_path: Path, domains: tuple[Domain, Domain], fitted: Callable[[str], Fitted]
) -> None:
    undisturbed = fitted(name)
    assert len(undisturbed.history) == 2
    assert all(torch.isfinite(tensor).all() for tensor in undisturbed.last.values() if tensor.is_floating_point())
    with pytest.raises(SystemExit):
        fit(tmp_path, domains, name, Interrupt(epoch=1))
    assert_same(fit(tmp_path, domains, name), undisturbed)


@pytest.mark.parametrize("name", METHODS)
def test_labels_of_the_target_change_nothing(
    name: str, tmp_path: Path, domains: tuple[Domain, Domain], fitted: Callable[[str], Fitted]
) -> None:
    renamed = domains_in(tmp_path, lambda y: (y + 1) % 3)
    assert not torch.equal(renamed[1].datasets["test"].labels, domains[1].datasets["test"].labels)
    assert torch.equal(renamed[1].pool.positions, domains[1].pool.positions)
    assert_same(fit(tmp_path / "fit", renamed, name), fitted(name))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "source_only"])
def test_its_loss_is_a_finite_number(name: str, fitted: Callable[[str], Fitted]) -> None:
    assert all(np.isfinite(row["train/loss"]) for row in fitted(name).history)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("name", METHODS)
def test_trains_in_every_precision(name: str, precision: str, tmp_path: Path, domains: tuple[Domain, Domain]) -> None:
    last = fit(tmp_path, domains, name, precision=precision).last
    assert all(torch.isfinite(tensor).all() for tensor in last.values() if tensor.is_floating_point())


REFUSED = [
    ("source=none backbone.weights=DEFAULT backbone=resnet18", "source with labels"),
    ("strategy=scratch", "random weights"),
    ("mapping=alignment", "mapping=identity"),
    ("head=ridge", "solved from labels"),
    ("baselines=[fine_tune]", "baselines=null"),
    ("target.balanced=true", "cannot be balanced"),
    ("target.augmentation.mixup=0.2", "mixup=0"),
    ("optimizer.lr=auto", "a number"),
    ("target.batch_size=auto", "a number"),
    ("after=temperature", "by the target's labels"),
    ("regulariser=sam", "labelled target"),
]


@pytest.mark.parametrize(("words", "reason"), REFUSED, ids=[words for words, _ in REFUSED])
def test_is_refused_beside_what_it_does_not_go_with(words: str, reason: str, loader: ConfigLoader) -> None:
    errors = validate(compose(loader, ["adaptation=coral", *ADAPTS, *words.split()]))
    assert any(error.startswith("adaptation=coral: ") and reason in error for error in errors), errors


FIXED_VIEWS = "features.augmented_views=2"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("adaptation=fixmatch", "adaptation=fixmatch: it compares two views in a step, and fixed views come one an"),
        ("adaptation=coral source.augmentation.cutmix=1", "set source.augmentation.cutmix=0"),
        ("adaptation=adda strategy=gradual_unfreeze", None),
        ("adaptation=coral strategy=linear_probe mapping=affine", None),
        ("adaptation=dann strategy=linear_probe mapping=low_rank", None),
        ("adaptation=shot", None),
        ("adaptation=coral target.labels_per_class=3", "a target with few labels is adapted to from its images"),
    ],
)
def test_fixed_augmented_views_go_with_methods_of_one_view(
    words: str, reason: str | None, loader: ConfigLoader
) -> None:
    errors = validate(compose(loader, [*ADAPTS, FIXED_VIEWS, *words.split()]))
    assert (errors == []) if reason is None else any(reason in error for error in errors), errors


def test_features_that_nothing_trains_cannot_be_adapted(loader: ConfigLoader) -> None:
    errors = validate(compose(loader, ["adaptation=coral", *ADAPTS, "strategy=linear_probe"]))
    assert errors == ["adaptation=coral: it acts on the features, and this strategy trains only the head"]
