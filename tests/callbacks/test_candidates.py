"""Epochs scored without labels of the target: the same scores and choices whatever happens to the run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import Interrupt, network, stage, tiny_domain, training, write_arrays
from paired_steps import method
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EMAWeightAveraging

from graft.adaptation.evidence import Judge
from graft.adaptation.selection import LABEL_FREE, PREFIX, Selection
from graft.callbacks.candidates import EPOCH, ORACLE
from graft.callbacks.checkpoints import LAST, read_checkpoint
from graft.data.domain import Domain
from graft.evaluation import evaluate
from graft.stage import Fitted, fit_stage

CPU = torch.device("cpu")
ALL = Selection(images=20, oracle=True)
EPOCHS = 4
Domains = tuple[Domain, Domain]


def domains_in(folder: Path, labels: Callable[[np.ndarray], np.ndarray] = np.asarray) -> Domains:
    """A source with 12 validation images and a target with 36 training images, its labels as `labels` makes them."""
    for name, seed in (("source", 0), ("target", 1)):
        (folder / name).mkdir(parents=True)
        path = write_arrays(folder / name / "tiny.npz", num_per_class=20 if name == "source" else 12, seed=seed)
        if name == "target":
            arrays = dict(np.load(path))
            np.savez(path, **arrays | {key: labels(arrays[key]) for key in ("y_train", "y_test")})
    return tiny_domain(folder / "source"), tiny_domain(folder / "target", val_fraction=0.0)


def fit(folder: Path, domains: Domains, how: Selection | None, *callbacks: Callback) -> Fitted:
    source, target = domains
    trained = replace(training(max_epochs=EPOCHS, callbacks=callbacks), adaptation={"mcc": method("mcc")})
    return fit_stage(replace(stage(folder, source, trained), unlabelled=target, selection=how), network())


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Domains:
    return domains_in(tmp_path_factory.mktemp("domains"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the stage of `fitted`."""
    return tmp_path_factory.mktemp("stage")


@pytest.fixture(scope="module")
def fitted(folder: Path, domains: Domains) -> Fitted:
    return fit(folder, domains, ALL)


def rows(fitted: Fitted, scores: bool = True) -> list[dict[str, Any]]:
    """The history without times, and without scores where these are not wanted."""
    return [
        {key: row[key] for key in row if "seconds" not in key and (scores or not key.startswith(PREFIX))}
        for row in fitted.history
    ]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def assert_same_choices(one: Fitted, other: Fitted) -> None:
    choices = {name: choice for name, choice in one.label_free.items() if name in LABEL_FREE}
    assert set(choices) == set(LABEL_FREE)
    for name, choice in choices.items():
        there = other.label_free[name]
        assert (there.epoch, there.score, there.collapsed) == (choice.epoch, choice.score, choice.collapsed)
        assert same(choice.read(), there.read())


def test_each_choice_is_the_best_epoch_and_its_weights_have_that_score(fitted: Fitted, domains: Domains) -> None:
    judge = Judge(network(), *domains, ALL.images, 0, CPU)
    assert len({choice.epoch for choice in fitted.label_free.values()}) > 1
    for name in LABEL_FREE:
        choice = fitted.label_free[name]
        assert choice.score == max(row[PREFIX + name] for row in fitted.history)
        assert judge(choice.read())[name] == choice.score


def test_the_oracle_is_the_best_epoch_on_test_and_in_no_checkpoint(
    fitted: Fitted, folder: Path, domains: Domains
) -> None:
    oracle, trained = fitted.label_free["oracle"], network()
    trained.load_state_dict(oracle.read())
    assert evaluate(trained, domains[1], "test", CPU)["accuracy"] == oracle.score
    written = json.loads((folder / ORACLE).read_text())["accuracy"]
    assert len(written) == EPOCHS
    assert oracle.score == max(written.values())
    assert not any("oracle" in key for row in read_checkpoint(folder / LAST)["stage"]["history"] for key in row)


def test_one_file_for_each_epoch_that_is_chosen(fitted: Fitted, folder: Path) -> None:
    chosen = {choice.epoch for choice in fitted.label_free.values()}
    kept = {path.name for path in folder.glob(EPOCH.format("*"))}
    assert {EPOCH.format(epoch) for epoch in chosen} <= kept
    assert len(kept) <= len(fitted.label_free) + 1
    assert all(set(read_checkpoint(folder / name)) == {"key", "state"} for name in kept)


def test_training_goes_on_as_if_nobody_looked(fitted: Fitted, tmp_path: Path, domains: Domains) -> None:
    for number, nobody in enumerate((None, Selection(images=0))):
        alone = fit(tmp_path / str(number), domains, nobody)
        assert rows(alone) == rows(fitted, scores=False)
        assert same(alone.last, fitted.last)
        assert alone.label_free == {}


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_that_goes_on_has_the_same_scores_and_choices(
    epoch: int, fitted: Fitted, tmp_path: Path, domains: Domains
) -> None:
    with pytest.raises(SystemExit):
        fit(tmp_path, domains, ALL, Interrupt(epoch))
    resumed = fit(tmp_path, domains, ALL)
    assert rows(resumed) == rows(fitted)
    assert_same_choices(resumed, fitted)
    assert resumed.label_free["oracle"].described() == fitted.label_free["oracle"].described()


def test_a_damaged_last_checkpoint_loses_no_choice(fitted: Fitted, tmp_path: Path, domains: Domains) -> None:
    with pytest.raises(SystemExit):
        fit(tmp_path, domains, ALL, Interrupt(3))
    (tmp_path / LAST).write_bytes(b"")
    assert_same_choices(fit(tmp_path, domains, ALL), fitted)


def test_labels_of_the_target_change_the_oracle_alone(
    fitted: Fitted, folder: Path, tmp_path: Path, domains: Domains
) -> None:
    others = domains_in(tmp_path, lambda y: (y + 1) % 3)
    assert not torch.equal(others[1].datasets["test"].labels, domains[1].datasets["test"].labels)
    again = fit(tmp_path / "stage", others, ALL)
    assert rows(again) == rows(fitted)
    assert_same_choices(again, fitted)
    states = [read_checkpoint(path / LAST)["state_dict"] for path in (folder, tmp_path / "stage")]
    assert same(*states)
    assert again.label_free["oracle"].score != fitted.label_free["oracle"].score


def test_candidates_are_some_epochs_and_the_last(tmp_path: Path, domains: Domains) -> None:
    sparse = fit(tmp_path, domains, Selection(images=20, every=3))
    assert [row["epoch"] for row in sparse.history if PREFIX + "entropy" in row] == [3, EPOCHS]
    assert "oracle" not in sparse.label_free
    assert not (tmp_path / ORACLE).exists()


def test_averaged_weights_are_what_is_scored_and_kept(tmp_path: Path, domains: Domains) -> None:
    averaged = fit(tmp_path, domains, ALL, EMAWeightAveraging(decay=0.9))
    scores = Judge(network(), *domains, ALL.images, 0, CPU)(averaged.last)
    assert {name: averaged.history[-1][PREFIX + name] for name in LABEL_FREE} == scores


def test_where_every_epoch_collapses_the_last_stands_in(tmp_path: Path, domains: Domains) -> None:
    class Collapse(Callback):
        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            with torch.no_grad():
                pl_module.network.head.linear.bias.copy_(torch.tensor([1e6, 0.0, 0.0]))

    collapsed = fit(tmp_path, domains, Selection(images=20), Collapse())
    for choice in collapsed.label_free.values():
        assert choice.described() == {"epoch": EPOCHS, "score": None, "collapsed": True}
        assert same(choice.read(), collapsed.last)


def test_images_are_drawn_by_the_seed_alone_and_hold_no_label_of_the_target(domains: Domains) -> None:
    judges = [Judge(network(), *domains, 5, seed, CPU) for seed in (0, 0, 1)]
    assert [len(judge.target) for judge in judges] == [len(judge.source) for judge in judges] == [5, 5, 5]
    positions = [judge.target.positions.tolist() for judge in judges]
    assert positions[0] == positions[1] != positions[2]
    assert not hasattr(judges[0].target, "labels")


def test_a_source_without_validation_images(tmp_path: Path, domains: Domains) -> None:
    source = tiny_domain(tmp_path, val_fraction=0.0)
    scores = Judge(network(), source, domains[1], 20, 0, CPU)(network().state_dict())
    assert set(scores) == {"entropy", "information", "density", "bnm"}
