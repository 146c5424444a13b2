"""Adaptation with labels of some target images: those count, and no other does."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import Interrupt, network, stage, tiny_domain, training, write_arrays
from paired_steps import method
from pytorch_lightning import Callback
from torch import Tensor

from graft.adapting import together
from graft.data.datasets import LabelledImages
from graft.data.domain import Domain
from graft.stage import Fitted, fit_stage


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Domain, Domain]:
    """A source, and a target with two labels for each of three classes."""
    folder = tmp_path_factory.mktemp("domains")
    for name, seed in (("source", 0), ("target", 1)):
        (folder / name).mkdir()
        write_arrays(folder / name / "tiny.npz", num_per_class=12, seed=seed)
    return tiny_domain(folder / "source", batch_size=12), tiny_domain(
        folder / "target", batch_size=8, labels_per_class=2
    )


def fit(folder: Path, domains: tuple[Domain, Domain], *callbacks: Callback, name: str = "mme") -> Fitted:
    how = replace(training(max_epochs=2, callbacks=callbacks), adaptation={name: method(name)})
    return fit_stage(replace(stage(folder, domains[0], how), unlabelled=domains[1]), network())


def relabelled(domain: Domain, change: Callable[[Tensor], Tensor], *splits: str) -> Domain:
    """The same images, labelled otherwise in some of the splits; the label budget still has the same images."""
    other = domain.with_batch_size(domain.batch_size)
    parts = {"pool": domain.pool, **domain.datasets}
    for name in splits:
        parts[name] = LabelledImages(parts[name].images, parts[name].positions, change(parts[name].labels))
    other.pool = parts.pop("pool")
    other.datasets = parts
    return other


def same(one: Fitted, other: Fitted) -> bool:
    logs = [[{k: v for k, v in row.items() if "seconds" not in k} for row in fitted.history] for fitted in (one, other)]
    return logs[0] == logs[1] and all(torch.equal(tensor, other.last[name]) for name, tensor in one.last.items())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, domains: tuple[Domain, Domain]) -> Fitted:
    return fit(tmp_path_factory.mktemp("fit"), domains)


def test_labels_outside_the_budget_change_nothing(
    tmp_path: Path, domains: tuple[Domain, Domain], fitted: Fitted
) -> None:
    other = relabelled(domains[1], lambda y: (y + 1) % 3, "pool", "val", "test")
    assert not torch.equal(other.pool.labels, domains[1].pool.labels)
    assert same(fit(tmp_path, (domains[0], other)), fitted)


def test_labels_in_the_budget_count(tmp_path: Path, domains: tuple[Domain, Domain], fitted: Fitted) -> None:
    other = relabelled(domains[1], lambda y: (y + 1) % 3, "train")
    assert not same(fit(tmp_path, (domains[0], other)), fitted)


def test_goes_on_bit_equal(tmp_path: Path, domains: tuple[Domain, Domain], fitted: Fitted) -> None:
    with pytest.raises(SystemExit):
        fit(tmp_path, domains, Interrupt(epoch=1))
    assert same(fit(tmp_path, domains), fitted)


def test_a_source_free_method_trains_on_them_alone(tmp_path: Path, domains: tuple[Domain, Domain]) -> None:
    first = fit(tmp_path / "first", domains, name="shot_im")
    assert {"train/cross_entropy", "train/shot_im", "train/accuracy"} <= first.history[0].keys()
    source = relabelled(domains[0], lambda y: (y + 1) % 3, "train")
    again = fit(tmp_path / "again", (source, domains[1]), name="shot_im")
    assert all(torch.equal(tensor, again.last[name]) for name, tensor in first.last.items())


def test_labels_of_mixed_source_images_are_probabilities_beside_the_targets() -> None:
    mixed = torch.tensor([[0.25, 0.75, 0.0]])
    assert torch.equal(together(mixed, torch.tensor([2])), torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]))
    assert torch.equal(together(torch.tensor([1]), torch.tensor([2])), torch.tensor([1, 2]))
