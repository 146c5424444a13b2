"""The range test: what it reads off a curve, that it leaves nothing behind, and that a run keeps what it found."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import network, stage, tiny_domain, training, write_arrays
from conf_plugins import names
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import LightningModule, Trainer
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from graft import learning_rate
from graft.build.assembly import build_experiment
from graft.build.validation import validate
from graft.cli.compose import compose, hydra_application
from graft.errors import UserError
from graft.estimate import estimate_run
from graft.experiment import Training
from graft.learning_rate import (
    HIGHEST,
    LOWEST,
    NUM_FIRST_LEFT_OUT,
    NUM_LAST_LEFT_OUT,
    NUM_STEPS,
    SMOOTHING,
    Curve,
    curve_of,
    exponential,
    falling_lengths,
    find_rate,
    search,
    suggestion,
)
from graft.pipeline import run
from graft.records.store import Store
from graft.trial import Memory, Times, Trial

RATES = np.geomspace(LOWEST, HIGHEST, NUM_STEPS)
LOSSES = st.lists(st.integers(0, 30).map(float), max_size=25)


@given(LOSSES)
def test_falling_lengths_are_those_of_the_plain_recursion(losses: list[float]) -> None:
    expected: list[int] = []
    for i, loss in enumerate(losses):
        expected.append(1 + max((expected[j] for j in range(i) if losses[j] > loss), default=0))
    assert falling_lengths(losses) == expected


def with_valley(first: int, last: int) -> list[float]:
    """Level to the step `first`, falling in a line to the step `last`, rising after it."""
    steps = np.arange(NUM_STEPS)
    return list(2.0 - np.clip((steps - first) / (last - first), 0, 1) + 0.1 * np.clip(steps - last, 0, None))


@given(st.integers(NUM_FIRST_LEFT_OUT, 60), st.integers(6, 30))
def test_a_tenth_of_where_a_known_valley_ends_is_suggested(first: int, width: int) -> None:
    found = suggestion(list(RATES), with_valley(first, first + width), noise=0.01)
    assert found == pytest.approx(RATES[first + width] / 10, rel=5e-3)


@given(st.floats(0.1, 10), st.floats(-5, 5))
def test_unit_and_zero_of_the_loss_do_not_matter(scale: float, offset: float) -> None:
    losses = with_valley(30, 70)
    moved = [scale * loss + offset for loss in losses]
    assert suggestion(list(RATES), moved, 0.01 * scale) == suggestion(list(RATES), losses, 0.01)


def test_a_loss_that_falls_to_the_highest_rate_ends_its_valley_there() -> None:
    found = suggestion(list(RATES), list(np.linspace(2, 1, NUM_STEPS)), noise=0.01)
    assert found == pytest.approx(RATES[-NUM_LAST_LEFT_OUT - 1] / 10, rel=5e-3)


@pytest.mark.parametrize(
    "losses", [np.full(NUM_STEPS, 2.3), np.linspace(1, 2, NUM_STEPS), np.linspace(2, 1, 12)], ids=["flat", "up", "few"]
)
def test_no_valley_is_an_error(losses: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"falls clearly at no learning rate from 1e-07 to 10; give the rate"):
        suggestion(list(RATES[: len(losses)]), list(losses), noise=0.0)


def fed(losses: Any) -> Curve:
    """What the callback makes of the losses of as many steps."""
    curve, trainer = Curve(), type("Trainer", (), {"global_step": 0, "should_stop": False})()
    for loss in losses:
        trainer.global_step += 1
        curve.on_train_batch_end(trainer, None, {"loss": loss}, None, 0)  # type: ignore[arg-type]
        if trainer.should_stop:
            break
    return curve


def has_valley(losses: np.ndarray) -> bool:
    curve = fed(losses)
    try:
        suggestion(curve.rates, curve.losses, curve.noise)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("deviation", [0.01, 0.5])
def test_noise_is_no_valley_but_for_a_few_times_in_a_hundred(deviation: float) -> None:
    noise = deviation * np.random.default_rng(0).standard_normal((400, NUM_STEPS))
    assert sum(map(has_valley, 2.3 + noise)) <= 12
    falling = np.clip(np.arange(NUM_STEPS) - 50, 0, None) / 50
    assert sum(map(has_valley, 2.3 + noise - 6 * deviation * falling)) >= 396


def test_losses_are_smoothed_without_a_pull_to_zero() -> None:
    losses = [2.0, 1.0, 4.0]
    weights = [(1 - SMOOTHING) * SMOOTHING**age for age in (2, 1, 0)]
    curve = fed(losses)
    assert curve.losses[-1] == pytest.approx(np.average(losses, weights=weights))
    assert curve.losses[0] == pytest.approx(2.0)
    assert curve.rates == pytest.approx(list(RATES[:3]))
    assert curve.noise == 2.0  # the median of 1 and 3
    assert fed([*[2.0, 1.0] * 15, 0.0, *[3.0, 0.5] * 5]).noise == 1.0  # none of the rise after the lowest loss


@pytest.mark.parametrize("last", [float("nan"), float("inf"), 1e4])
def test_the_curve_ends_where_the_loss_diverges(last: float) -> None:
    assert len(fed([1.0] * 20 + [last] + [1.0] * 5).losses) == 20


class Look(Curve):
    """Notes what is trained, and each layer group's rate as a share of the test's."""

    seen: list[tuple[set[str], dict[str, float]]]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        base = HIGHEST * exponential(len(self.rates), 0)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        groups = trainer.optimizers[0].param_groups
        rates = {group["name"]: group["lr"] / base for group in groups}
        self.seen.append(({name for group in groups for name in group["param_names"]}, rates))


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> type[Look]:
    Look.seen = []
    monkeypatch.setattr(learning_rate, "Curve", Look)
    monkeypatch.setattr(learning_rate, "NUM_STEPS", 6)
    return Look


@pytest.mark.parametrize("name", names("strategy"))
def test_every_strategy_is_tested_in_its_first_phase(name: str, look: type[Look], tmp_path: Path) -> None:
    how = open_rate(training(name, max_epochs=12))
    net = network("resnet20")
    curve = curve_of(stage(tmp_path, tiny_domain(tmp_path), how), net)
    assert curve is not None
    assert curve.rates == pytest.approx(list(np.geomspace(LOWEST, HIGHEST, 6)[: len(curve.rates)]))
    groups = ["stem"] if how.strategy.groups == "auto" else how.strategy.groups
    first = replace(how.strategy, groups=groups).resolve(network("resnet20"), 12)[0]
    scales = {entry.group: entry.lr_scale for entry in first.assignments if entry.lr_scale is not None}
    for trained, rates in look.seen:
        if how.strategy.groups != "auto":
            assert trained == first.trained_names
        for group, rate in rates.items():
            assert rate == pytest.approx(scales.get(group.partition("(")[0], 1.0))


def test_summed_batches_are_one_step_of_their_mean_loss(look: type[Look], tmp_path: Path) -> None:
    domain = tiny_domain(tmp_path)
    one, two = (
        curve_of(stage(tmp_path, domain, open_rate(training(accumulate_grad_batches=num))), network()) for num in (1, 2)
    )
    assert one is not None
    assert two is not None
    num = min(len(one.rates), len(two.rates))
    assert num >= 3
    assert one.rates[:num] == two.rates[:num]
    assert two.steps[0] == pytest.approx(sum(one.steps[:2]) / 2, rel=1e-4)  # a step at 1e-7 changes nothing yet


def open_rate(how: Training) -> Training:
    """The same with the rate left open."""
    return replace(how, optimizer=partial(torch.optim.AdamW, lr="auto", weight_decay=0.1))


def test_a_search_leaves_everything_as_it_was(tmp_path: Path) -> None:
    domain, folder = tiny_domain(tmp_path), tmp_path / "stage"
    made = []

    def new_network() -> Any:
        made.append(network("resnet20"))
        return made[-1]

    before, random = network("resnet20").state_dict(), torch.get_rng_state()
    how = open_rate(training())
    store = Store(tmp_path / "store")
    searches = [find_rate(stage(folder, domain, how), new_network, store) for _ in range(2)]
    assert searches[0] == searches[1]
    assert searches[0].keys() == {"lr", "rates", "losses", "seconds"}
    assert len(made) == 1  # the second time the store knows
    assert not folder.exists()
    torch.manual_seed(0)
    assert all(torch.equal(before[name], tensor) for name, tensor in network("resnet20").state_dict().items())
    torch.set_rng_state(random)
    search(stage(folder, domain, how), made[0])
    assert torch.equal(torch.get_rng_state(), random)
    assert how.lr == "auto"


TINY = ("trainer=cpu", "target=arrays", "target.val_fraction=0.2", "target.batch_size=16", "source=arrays")
TINY = (*TINY, "trainer.max_epochs=3", "pretrain.max_epochs=2", "optimizer.lr=auto", "pretrain.optimizer.lr=auto")
Go = Callable[..., dict[str, Any]]


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Go]:
    """Run a configuration over tiny arrays in a named folder, with a store of its own or another's."""
    write_arrays(tmp_path / "source.npz", seed=1, num_classes=4)
    write_arrays(tmp_path / "target.npz", seed=2)
    paths = (f"target.path={tmp_path}/target.npz", f"source.path={tmp_path}/source.npz")
    with hydra_application() as hydra:

        def make(name: str, *overrides: str, store: str = "") -> dict[str, Any]:
            where = f"paths.outputs={tmp_path / (store or name)}"
            config = compose(hydra.config_loader, [*TINY, *paths, where, "logger=none", *overrides])
            assert validate(config) == []
            folder = tmp_path / "runs" / name
            folder.mkdir(parents=True, exist_ok=True)
            run(build_experiment(config), folder)
            record: dict[str, Any] = json.loads((folder / "record.json").read_text())
            return record | {"folder": folder}

        yield make


def weights(record: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(record["folder"] / "weights" / "network.safetensors")


def assert_same_run(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert all(torch.equal(tensor, weights(b)[name]) for name, tensor in weights(a).items())
    assert a["metrics"] == b["metrics"]
    assert a["fingerprints"] == b["fingerprints"]
    for mine, other in (
        (a["history"], b["history"]),
        (a["baselines"]["scratch"]["history"], b["baselines"]["scratch"]["history"]),
    ):
        rows = [[{key: value for key, value in row.items() if key != "seconds"} for row in h] for h in (mine, other)]
        assert rows[0] == rows[1]


def rates(record: dict[str, Any]) -> dict[str, float]:
    return {name: found["lr"] for name, found in record["learning_rates"].items()}


def by_hand(record: dict[str, Any], stage: str) -> tuple[str, str]:
    return f"optimizer.lr={rates(record)[stage]}", f"pretrain.optimizer.lr={rates(record)['pretrain']}"


def test_a_run_is_bit_equal_to_one_with_the_rate_by_hand(go: Go, tmp_path: Path) -> None:
    found = go("found")
    assert rates(found).keys() == {"pretrain", "transfer", "scratch"}
    assert found["cost"]["search_seconds"] == sum(s["seconds"] for s in found["learning_rates"].values())
    given = go("given", *by_hand(found, "transfer"), "baselines=[]")
    assert given["learning_rates"] == {}
    assert given["cost"]["search_seconds"] == 0
    scratch = go("scratch", *by_hand(found, "scratch"), "strategy=scratch", "baselines=[]")
    assert found["baselines"]["scratch"]["metrics"].items() <= scratch["metrics"].items()
    assert_same_run(found, given | {"baselines": {"scratch": scratch}})
    # The same weights have the same key: the store of one serves the other.
    stored = {path.parent.name for path in (tmp_path / "found" / "store" / "backbone").glob("*/*/manifest.json")}
    assert stored == {
        path.parent.name for path in (tmp_path / "given" / "store" / "backbone").glob("*/*/manifest.json")
    }


def test_a_second_run_does_not_search_again(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    first = go("a", store="store")
    monkeypatch.setattr(learning_rate, "search", lambda *_: pytest.fail("searched again"))
    second = go("b", store="store")
    assert_same_run(first, second)
    assert first["learning_rates"] == second["learning_rates"]


@pytest.mark.parametrize("interrupted", [1, 2])
def test_cut_off_in_a_search_a_run_ends_as_if_nothing_had_happened(
    go: Go, interrupted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = go("a")
    tested = []

    class CutOff(Curve):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            tested.append(self)

        def on_train_batch_end(self, *arguments: Any) -> None:
            super().on_train_batch_end(*arguments)
            if len(tested) == interrupted and len(self.rates) == 30:
                raise KeyboardInterrupt

    monkeypatch.setattr(learning_rate, "Curve", CutOff)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        go("b")
    monkeypatch.setattr(learning_rate, "Curve", Curve)
    assert_same_run(undisturbed, resumed := go("b"))
    assert rates(undisturbed) == rates(resumed)


def test_without_steps_there_is_no_rate_to_find(go: Go) -> None:
    record = go("a", "head=ridge", "strategy=linear_probe", "baselines=[]")
    assert record["learning_rates"]["transfer"]["lr"] is None
    assert "no phase of the strategy takes steps" in record["learning_rates"]["transfer"]["reason"]


def test_the_curve_is_in_tensorboard_and_the_rate_among_the_settings(go: Go, tmp_path: Path) -> None:
    record = go("a", "logger=tensorboard", "baselines=[]")
    events = EventAccumulator(str(record["folder"] / "tensorboard" / "transfer"))
    events.Reload()
    found = record["learning_rates"]["transfer"]
    for tag, values in (("range test/lr", found["rates"]), ("range test/loss", found["losses"])):
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(values)


@pytest.mark.parametrize("strategy", ["gradual_unfreeze", "surgical_auto", "last_stage"])
def test_every_kind_of_start_is_searched_and_trained(go: Go, strategy: str) -> None:
    words = ["backbone=resnet20", f"strategy={strategy}", "trainer.max_epochs=5", "baselines=[]"]
    words += ["regulariser=l2_sp", "pretrain.optimizer.lr=0.01"]
    record = go("a", *words)
    assert_same_run(
        {**record, "baselines": {"scratch": record}},
        {**(given := go("b", *words, f"optimizer.lr={rates(record)['transfer']}")), "baselines": {"scratch": given}},
    )


def test_a_search_is_in_the_estimate_until_it_is_made(go: Go, tmp_path: Path) -> None:
    def steady(*_: Any) -> Trial:
        return Trial(Times(0.01, 0.0, 0.0, 0.0), Memory(1, 1, 1, 1))

    record = go("a", "baselines=[]")
    experiment = build_experiment(record["config"])
    fixed = replace(experiment, transfer=experiment.transfer.with_lr(0.1))
    seconds = [{c.name: c.seconds for c in estimate_run(one, steady)}["transfer"] for one in (experiment, fixed)]
    assert seconds[0] == pytest.approx(seconds[1] + NUM_STEPS * 0.01)
    assert next(c for c in estimate_run(experiment, steady) if c.name == "pretraining").in_store
