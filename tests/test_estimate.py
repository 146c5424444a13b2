"""What `graft plan` predicts, with the stop-watch in our hands."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import network, stage, strategy, tiny_domain, training, write_arrays

from graft.build.assembly import build_experiment
from graft.cli.commands.plan import cost_lines
from graft.cli.compose import compose, hydra_application
from graft.estimate import Cost, Work, estimate_run, num_choosing, num_recalibrated, phase_seconds, phase_work
from graft.experiment import Experiment
from graft.features import FeatureCache
from graft.pipeline import run
from graft.records.store import Store
from graft.trial import Memory, Patient, Times, Trial, measure_phase, small_part

TIMES = Times(step=0.5, validation=0.25, epoch=1.0, inference=0.125)
MEMORY = Memory(parameters=4, gradients=3, optimizer=6, activations=10)


def steady(*_: Any) -> Trial:
    """As if every phase took the same a step."""
    return Trial(Times(0.01, 0.0, 0.0, 0.0), MEMORY)


@pytest.fixture
def experiment(tmp_path: Path) -> Iterator[Callable[..., Experiment]]:
    write_arrays(tmp_path / "source.npz", seed=1, num_classes=4)
    write_arrays(tmp_path / "target.npz", seed=2)
    words = ["trainer=cpu", "logger=none", "target=arrays", f"target.path={tmp_path}/target.npz", "source=arrays"]
    words += [f"source.path={tmp_path}/source.npz", f"paths.outputs={tmp_path}/outputs", "pretrain.max_epochs=2"]
    with hydra_application() as hydra:
        yield lambda *more: build_experiment(compose(hydra.config_loader, [*words, *more]))


def costs(experiment: Experiment) -> dict[str, Cost]:
    return {cost.name: cost for cost in estimate_run(experiment, steady)}


def test_a_phase_is_its_batches_and_epochs() -> None:
    assert phase_seconds(TIMES, Work(epochs=2, train_batches=3, val_batches=4, images=100)) == 2 * (1.5 + 1.0 + 1.0)


@pytest.mark.parametrize(("from_features", "solved", "looks"), [(True, False, 1), (False, True, 1), (True, True, 2)])
def test_features_are_computed_once(from_features: bool, solved: bool, looks: int) -> None:
    times = Times(0.0, 0.0, 0.0, inference=0.5, from_features=from_features)
    assert phase_seconds(times, Work(7, 3, 1, images=10, solved=solved)) == looks * 5.0


def test_recalibration_sends_the_images_half_the_way_for_each_layer(tmp_path: Path) -> None:
    domain, net = tiny_domain(tmp_path), network("resnet20")  # 48 train, 19 norm layers
    [phase] = strategy("adabn").resolve(net, 3)
    assert num_recalibrated(net, domain, phase) == 48 * 19 / 2
    assert num_recalibrated(net, domain, replace(phase, recalibrate=False)) == 0
    work = Work(0, 0, 0, images=0, recalibrated=10.0)
    assert phase_seconds(Times(0.0, 0.0, 0.0, inference=0.5), work) == 5.0


def test_choosing_groups_takes_gradients_of_some_batches(tmp_path: Path) -> None:
    domain, net = tiny_domain(tmp_path, batch_size=2), network()
    assert num_choosing(training("surgical_auto"), net, domain) == 3 * 16 * 2
    assert num_choosing(training("surgical"), net, domain) == 0


@pytest.mark.parametrize(("limit", "batches"), [(None, 3), (2, 2), (0.5, 1)])
def test_the_trainers_limits_count(limit: float | None, batches: int, tmp_path: Path) -> None:
    domain = tiny_domain(tmp_path)  # 48 train, 12 val in batches of 16
    how = training() if limit is None else training(limit_train_batches=limit)
    [phase] = how.strategy.resolve(network(), 3)
    assert phase_work(how, domain, phase, solved=False) == Work(3, batches, 1, 60)


def test_features_of_both_domains_are_computed_once(tmp_path: Path) -> None:
    source, target = tiny_domain(tmp_path), tiny_domain(tmp_path, val_fraction=0.0)
    how = training("linear_probe")
    [phase] = how.strategy.resolve(network(), 3)
    assert phase_work(how, source, phase, solved=False, unlabelled=target).images == 48 + 12 + 60


def test_twice_the_epochs_take_twice_as_long(experiment: Callable[..., Experiment]) -> None:
    once, twice = (costs(experiment(f"trainer.max_epochs={epochs}")) for epochs in (10, 20))
    assert once.keys() == {"data", "pretraining", "transfer", "baseline scratch"}
    assert once["transfer"].seconds > 0
    for name in ("transfer", "baseline scratch"):
        assert twice[name].seconds == pytest.approx(2 * once[name].seconds)
    assert twice["pretraining"].seconds == once["pretraining"].seconds


def test_phases_add_up_to_the_stages_epochs(experiment: Callable[..., Experiment]) -> None:
    one, several = (costs(experiment(f"strategy={name}"))["transfer"] for name in ("fine_tune", "gradual_unfreeze"))
    assert several.seconds == pytest.approx(one.seconds)


def test_what_is_in_the_store_takes_no_time(experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    asked = experiment("trainer.max_epochs=1")
    run(asked, tmp_path)
    found = costs(asked)
    assert found["pretraining"].in_store
    assert found["baseline scratch"].in_store
    assert not found["transfer"].in_store
    assert found["pretraining"].seconds == found["baseline scratch"].seconds == 0.0


def test_scratch_is_its_own_baseline(experiment: Callable[..., Experiment]) -> None:
    found = costs(experiment("strategy=scratch"))
    assert "pretraining" not in found
    assert found["baseline scratch"].seconds == 0.0


@pytest.mark.parametrize("name", ["fine_tune", "linear_probe"])
def test_a_trial_measures_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    domain, how = tiny_domain(tmp_path), training(name)
    before = (dict(domain.sizes), domain.fingerprint)
    net = network()
    [phase] = how.strategy.resolve(net, 3)
    cache = FeatureCache(Store(tmp_path / "store"), limit=2**20)
    trial = measure_phase(stage(tmp_path / "trial", small_part(domain), how, cache=cache), net, phase)
    assert trial.times.step > 0
    assert trial.times.validation > 0
    assert trial.times.inference > 0
    assert trial.times.from_features == (name == "linear_probe")
    assert (domain.sizes, domain.fingerprint) == before
    trained = sum(p.numel() for _, _, p in net.named_group_parameters() if p.requires_grad) * 4
    assert trial.memory.gradients == trained
    assert 2 * trained <= trial.memory.optimizer < 2 * trained + 100  # two moments and step counts
    assert trial.memory.activations > 0


def test_a_trial_weighs_one_batch_where_gradients_of_several_are_summed(tmp_path: Path) -> None:
    def activations(num_summed: int) -> int:
        domain, how = tiny_domain(tmp_path), training(accumulate_grad_batches=num_summed)
        [phase] = how.strategy.resolve(network(), 3)
        folder = tmp_path / str(num_summed)
        return measure_phase(stage(folder, small_part(domain), how), network(), phase).memory.activations

    assert activations(2) == activations(1) > 0


def test_estimating_writes_nothing(experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    torch.manual_seed(0)
    found = estimate_run(experiment("strategy=linear_probe"))
    assert all(cost.seconds > 0 for cost in found)
    assert sorted(tmp_path.rglob("*")) == before


def test_patience_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried: list[int] = []

    def slow(*_: Any) -> Trial:
        tried.append(1)
        return Trial(Times(step=len(tried), validation=0, epoch=0, inference=0), MEMORY)

    monkeypatch.setattr("graft.trial.measure_phase", slow)
    patient: Any = Patient()
    assert [patient(None, None, None).times.step for _ in range(2)] == [1, 2]
    patient.spent = 1e9
    assert patient(None, None, None).times.step == 2
    assert len(tried) == 2


def test_lines() -> None:
    lines = cost_lines(
        [Cost("data", 0.44), Cost("pretraining", 0.0, in_store=True), Cost("transfer", 40.9, memory=MEMORY)]
    )
    assert lines[0] == "about 41 s: 0.4 s data, pretraining in the store, 41 s transfer"
    assert lines[1].startswith("memory: about 0.0 MiB")
