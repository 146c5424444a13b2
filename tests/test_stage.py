"""Stages: what is frozen stays, what is thawed trains, and an interrupted stage ends as if nothing had happened."""

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import Interrupt, SameOnAllRanks, network, stage, tiny_domain, training
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging

from graft.callbacks.checkpoints import LAST, PREVIOUS, read_checkpoint, read_last_checkpoint
from graft.callbacks.swa import StochasticWeightAveraging
from graft.data.augment import Augmentation
from graft.data.datasets import EpochSampler
from graft.data.domain import Domain
from graft.data.view import View
from graft.errors import UserError
from graft.features import FeatureCache
from graft.models.network import Network
from graft.records.store import Store, size_of
from graft.seeds import stable_seed
from graft.stage import Fitted, fit_stage, read_start
from graft.strategies.phases import Strategy
from graft.strategies.schedules import Constant, Cosine, OneCycle, Schedule, Step

MULTI_PHASE = ("lp_ft", "gradual_unfreeze", "plateau_unfreeze")


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return tiny_domain(tmp_path)


class Watch(Callback):
    """Notes at each step which parameters got a gradient, and which modules trained."""

    def __init__(self) -> None:
        self.received: dict[str, set[str]] = {}
        self.in_optimizer: dict[str, set[str]] = {}
        self.rates: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
        names = {name for name, _, p in pl_module.network.named_group_parameters() if p.grad is not None}
        self.received.setdefault(pl_module.phase.name, set()).update(names)
        groups = trainer.optimizers[0].param_groups
        self.in_optimizer[pl_module.phase.name] = {name for group in groups for name in group["param_names"]}
        self.rates.append({group["name"]: group["lr"] for group in groups})


def run(folder: Path, domain: Domain, how: str, epochs: int, *callbacks: Callback, **settings: object) -> Fitted:
    net: Network = settings.pop("network", None) or network("resnet20")  # type: ignore[assignment]
    cache: FeatureCache | None = settings.pop("cache", None)  # type: ignore[assignment]
    how_trained = training(how, epochs, callbacks=callbacks, **settings)  # type: ignore[arg-type]
    return fit_stage(stage(folder, domain, how_trained, cache=cache), net)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Fitted]:
    """Stages left alone, each fitted once."""

    @lru_cache
    def fitted(how: str, epochs: int) -> Fitted:
        folder = tmp_path_factory.mktemp("undisturbed")
        return run(folder / "stage", tiny_domain(folder), how, epochs)

    return fitted


def resumed(folder: Path, domain: Domain, how: str, epochs: int, interrupted: int) -> Fitted:
    """A stage cut off in an epoch and given again."""
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(folder, domain, how, epochs, Interrupt(interrupted))
    return run(folder, domain, how, epochs)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1)


@pytest.mark.parametrize("optimizer", [SGD, None], ids=["sgd", "adamw"])
@pytest.mark.parametrize("augment", [True, False])
def test_frozen_parameters_and_buffers_are_bit_equal_afterwards(
    tmp_path: Path, domain: Domain, optimizer: object, augment: bool
) -> None:
    net = network("resnet20")
    before = {name: tensor.clone() for name, tensor in net.backbone.state_dict().items()}
    how = "linear_probe" if not augment else "last_stage"
    fitted = run(tmp_path / "s", domain, how, 2, network=net, optimizer=optimizer)
    last_group = list(net.backbone.layer_groups)[-1]
    for name, tensor in before.items():
        if how == "last_stage" and name.startswith(last_group):
            continue
        assert torch.equal(fitted.last[f"backbone.{name}"], tensor), name
    assert not torch.equal(fitted.last["head.linear.weight"], network("resnet20").head.linear.weight)


def test_thawed_parts_move_and_their_norm_statistics_too(tmp_path: Path, domain: Domain) -> None:
    before = network("resnet20").state_dict()
    fitted = run(tmp_path / "s", domain, "gradual_unfreeze", 6)
    still = [name for name, tensor in before.items() if torch.equal(fitted.last[name], tensor)]
    assert still == []


@pytest.mark.parametrize("how", MULTI_PHASE)
def test_after_each_thaw_trainable_is_in_the_optimiser_is_given_gradients(
    tmp_path: Path, domain: Domain, how: str
) -> None:
    watch = Watch()
    net = network("resnet20")
    fitted = run(tmp_path / "s", domain, how, 8, watch, network=net)
    phases = training(how, 8).strategy.resolve(net, 8)
    seen = {row["phase"] for row in fitted.history}
    assert len(seen) == len(phases)
    for phase in phases:
        assert watch.received[phase.name] == watch.in_optimizer[phase.name] == set(phase.trained_names)


@pytest.mark.parametrize("how", [*MULTI_PHASE, "fine_tune"])
@pytest.mark.parametrize("epoch", [0, 1, 2, 4, 5])
def test_resumed_is_bit_equal_to_undisturbed(
    tmp_path: Path, domain: Domain, undisturbed: Callable[[str, int], Fitted], how: str, epoch: int
) -> None:
    whole, again = undisturbed(how, 6), resumed(tmp_path / "s", domain, how, 6, epoch)
    assert equal(whole.last, again.last)
    assert equal(whole.best, again.best)
    drop = ("seconds",)
    rows = [[{k: v for k, v in row.items() if k not in drop} for row in f.history] for f in (whole, again)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("how", ["plateau_unfreeze_best", "fastai_fine_tune", "adabn"])
def test_what_a_phase_begins_with_is_bit_equal_on_resuming(
    tmp_path: Path, domain: Domain, undisturbed: Callable[[str, int], Fitted], how: str, epoch: int
) -> None:
    whole, again = undisturbed(how, 5), resumed(tmp_path / "s", domain, how, 5, epoch)
    assert equal(whole.last, again.last)
    assert equal(whole.best, again.best)


AVERAGING = {"ema": partial(EMAWeightAveraging, decay=0.9), "swa": partial(StochasticWeightAveraging, start=0.5)}


def averaged(folder: Path, domain: Domain, how: str, by: str, *callbacks: Callback) -> Fitted:
    """Six epochs whose weights are averaged, by a callback of its own for each fit as the pipeline makes them."""
    trained = replace(training(how, 6), callbacks=lambda: [AVERAGING[by](), *callbacks])
    return fit_stage(stage(folder, domain, trained), network("resnet20"))


@pytest.mark.parametrize("by", AVERAGING)
@pytest.mark.parametrize("how", ["linear_probe", "gradual_unfreeze"])
def test_resumed_is_bit_equal_with_averaged_weights_too(tmp_path: Path, domain: Domain, how: str, by: str) -> None:
    undisturbed = averaged(tmp_path / "a", domain, how, by)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        averaged(tmp_path / "b", domain, how, by, Interrupt(4))
    assert equal(undisturbed.last, averaged(tmp_path / "b", domain, how, by).last)


@pytest.mark.parametrize("by", AVERAGING)
def test_averaged_weights_leave_what_is_frozen_as_it_is(tmp_path: Path, domain: Domain, by: str) -> None:
    fitted = averaged(tmp_path, domain, "linear_probe", by)
    start = network("resnet20").backbone.state_dict()
    assert all(torch.equal(fitted.last[f"backbone.{name}"], tensor) for name, tensor in start.items())


def test_the_start_of_the_backbone_is_kept_over_an_interruption(tmp_path: Path, domain: Domain) -> None:
    def start(folder: Path, *callbacks: Callback) -> dict[str, torch.Tensor]:
        kept = replace(stage(folder, domain, training("lp_ft", 4, callbacks=callbacks)), keep_start=True)
        fit_stage(kept, network("resnet20"))
        return read_start(kept)

    undisturbed = start(tmp_path / "a")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        start(tmp_path / "b", Interrupt(3))
    assert equal(undisturbed, start(tmp_path / "b"))
    before = network("resnet20").state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(undisturbed[name], tensor)}
    assert moved == {"head.linear.weight", "head.linear.bias"}


def test_a_finished_stage_is_not_trained_again(tmp_path: Path, domain: Domain) -> None:
    first = run(tmp_path / "a", domain, "gradual_unfreeze", 6)
    watch = Watch()
    again = run(tmp_path / "a", domain, "gradual_unfreeze", 6, watch)
    assert equal(first.last, again.last)
    assert watch.rates == []


def test_checkpoints_of_another_key_are_not_used(tmp_path: Path, domain: Domain) -> None:
    run(tmp_path / "a", domain, "fine_tune", 1)
    watch = Watch()
    other = stage(tmp_path / "a", domain, training("fine_tune", 1, callbacks=(watch,)), key="f" * 64)
    fit_stage(other, network("resnet20"))
    assert watch.rates


@pytest.mark.parametrize("schedule", [Constant(), Cosine(), OneCycle(), Step()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("interrupt", [None, 3])
def test_learning_rates_follow_their_closed_form_across_thaws_and_resumes(
    tmp_path: Path, domain: Domain, schedule: Schedule, interrupt: int | None
) -> None:
    watch = Watch()
    epochs = 6
    if interrupt is not None:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(tmp_path / "a", domain, "gradual_unfreeze", epochs, Interrupt(interrupt), schedule=schedule)
    run(tmp_path / "a", domain, "gradual_unfreeze", epochs, watch, schedule=schedule)
    steps_per_epoch = -(-domain.sizes["train"] // domain.batch_size)
    total = epochs * steps_per_epoch
    first = (interrupt or 0) * steps_per_epoch
    assert len(watch.rates) == total - first
    for step, rates in enumerate(watch.rates, first):
        assert set(rates.values()) == {1e-3 * schedule(step, total)}


def test_a_restart_begins_the_schedule_anew(tmp_path: Path, domain: Domain) -> None:
    watch = Watch()
    run(tmp_path / "a", domain, "lp_ft", 4, watch, schedule=Cosine())
    half = len(watch.rates) // 2
    heads = [rates["head"] for rates in watch.rates]
    assert heads[:half] == heads[half:]


def test_lp_ft_begins_fine_tuning_with_the_function_the_probe_ended_with(tmp_path: Path, domain: Domain) -> None:
    logits = {}

    class Look(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self._look(pl_module, "start")

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self._look(pl_module, "end")

        def _look(self, module: LightningModule, when: str) -> None:
            images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
            with torch.no_grad():
                logits[module.phase.name, module.stage_epoch, when] = module.network(images)

    run(tmp_path / "a", domain, "lp_ft", 4, Look())
    assert torch.equal(logits["probe", 1, "end"], logits["fine_tune", 2, "start"])


@pytest.mark.parametrize("start_from", ["best", "last"])
def test_a_phase_starts_from_the_best_epoch_of_the_one_before(tmp_path: Path, domain: Domain, start_from: str) -> None:
    """Weights, norm statistics and the optimiser's slots; the rates grow, so that the first epoch is the best."""
    states: dict[int, dict[str, torch.Tensor]] = {}
    slots: dict[int, torch.Tensor] = {}

    class Look(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self._look(trainer, pl_module, -pl_module.stage_epoch)

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self._look(trainer, pl_module, pl_module.stage_epoch + 1)

        def _look(self, trainer: Trainer, module: LightningModule, when: int) -> None:
            states[when] = {name: tensor.clone() for name, tensor in module.network.state_dict().items()}
            state = trainer.optimizers[0].state.get(module.network.head.linear.weight, {})
            slots[when] = state["momentum_buffer"].clone() if state else torch.zeros(1)

    every = {".*": {"lr_scale": 1}}
    phases = [
        {"name": "a", "rules": every, "until": {"epochs": 3}},
        {"name": "b", "rules": every, "start_from": start_from},
    ]
    how = replace(
        training("fine_tune", 4, SGD, callbacks=(Look(),)),
        strategy=Strategy("x", phases),
        schedule=lambda step, total: 0.1 if step < total / 4 else 50.0,
    )
    fitted = fit_stage(stage(tmp_path, domain, how), network("resnet20"))
    rows = fitted.history[:3]
    best = max(rows, key=lambda row: row["val/accuracy"])["epoch"]
    expected = best if start_from == "best" else 3
    assert best < 3
    assert equal(states[-3], states[expected])
    assert torch.equal(slots[-3], slots[expected])


def test_every_checkpoint_loads_with_weights_only(tmp_path: Path, domain: Domain) -> None:
    run(tmp_path / "a", domain, "gradual_unfreeze", 6)
    paths = list((tmp_path / "a").rglob("*.ckpt"))
    assert {path.name for path in paths} >= {LAST, PREVIOUS}
    for path in paths:
        assert "state_dict" in torch.load(path, weights_only=True)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut off", None])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path,
    domain: Domain,
    undisturbed: Callable[[str, int], Fitted],
    damage: bytes | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path / "b", domain, "fine_tune", 4, Interrupt(3))
    last = tmp_path / "b" / LAST
    last.write_bytes(last.read_bytes()[:5000] if damage is None else damage)
    assert equal(undisturbed("fine_tune", 4).last, run(tmp_path / "b", domain, "fine_tune", 4).last)
    assert "not a usable checkpoint" in caplog.text


def test_when_all_checkpoints_are_damaged_the_error_names_one(tmp_path: Path) -> None:
    (tmp_path / LAST).write_bytes(b"")
    with pytest.raises(UserError, match="not a usable checkpoint"):
        read_last_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"last\.ckpt"):
        read_checkpoint(tmp_path / LAST)


def saved(folder: Path) -> set[str]:
    return {name.removeprefix("network.") for name in read_checkpoint(folder / LAST)["state_dict"]}


def test_checkpoints_leave_out_what_is_as_the_stage_began(tmp_path: Path, domain: Domain) -> None:
    run(tmp_path / "a", domain, "linear_probe", 1)
    assert saved(tmp_path / "a") == {"head.linear.weight", "head.linear.bias"}
    run(tmp_path / "b", domain, "last_stage", 1)
    assert {name.split(".")[1] for name in saved(tmp_path / "b") if name.startswith("backbone.")} == {"stage3"}
    run(tmp_path / "c", domain, "lp_ft", 2)
    assert saved(tmp_path / "c") == set(network("resnet20").state_dict())


def test_the_best_epoch_may_lie_before_a_thaw(tmp_path: Path, domain: Domain) -> None:
    diverging = partial(torch.optim.SGD, lr=3.0)
    fitted = run(tmp_path, domain, "gradual_unfreeze", 6, optimizer=diverging, schedule=Constant())
    assert fitted.best_epoch < 6
    assert fitted.best.keys() == fitted.last.keys()
    start = network("resnet20").state_dict()
    phase = next(row["phase"] for row in fitted.history if row["epoch"] == fitted.best_epoch)
    frozen = {"head": 4, "from_stage3": 3, "from_stage2": 2, "from_stage1": 1, "from_stem": 0}[phase]
    for group in ("stem", "stage1", "stage2", "stage3")[:frozen]:
        names = [name for name in start if name.startswith(f"backbone.{group}.")]
        assert all(torch.equal(fitted.best[name], start[name]) for name in names)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(Store(tmp_path / "store"), limit=2**30)


def num_entries(cache: FeatureCache) -> int:
    return len(list(cache.store.root.glob("features/*/*/manifest.json")))


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("how", "epochs", "entries"),
    [("linear_probe", 3, 2), ("last_stage", 3, 2), ("gradual_unfreeze", 6, 8), ("lp_ft", 3, 2), ("fine_tune", 2, 0)],
)
def test_training_from_cached_features_is_training_through_the_frozen_prefix(
    tmp_path: Path, domain: Domain, cache: FeatureCache, how: str, epochs: int, entries: int, memory_format: str
) -> None:
    cached = run(tmp_path / "a", domain, how, epochs, cache=cache, memory_format=memory_format)
    through = run(tmp_path / "b", domain, how, epochs, memory_format=memory_format)
    assert num_entries(cache) == entries  # train and val for each boundary
    assert [row["step"] for row in cached.history] == [row["step"] for row in through.history]
    assert equal(cached.last, through.last)
    assert [row["val/loss"] for row in cached.history] == [row["val/loss"] for row in through.history]


def test_cached_features_are_shared_by_stages_that_freeze_the_same(
    tmp_path: Path, domain: Domain, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path / "a", domain, "last_stage", 2, cache=cache)
    monkeypatch.setattr("graft.features.outputs", lambda *_: pytest.fail("computed again"))
    assert equal(run(tmp_path / "b", domain, "last_stage", 2, cache=cache).last, first.last)


def test_other_weights_data_or_boundary_have_other_features(
    tmp_path: Path, domain: Domain, cache: FeatureCache
) -> None:
    run(tmp_path / "a", domain, "last_stage", 1, cache=cache)
    run(tmp_path / "b", domain, "linear_probe", 1, cache=cache)
    run(tmp_path / "c", domain, "last_stage", 1, cache=cache, network=network("resnet20", seed=1))
    run(tmp_path / "d", tiny_domain(tmp_path, labels_per_class=5), "last_stage", 1, cache=cache)
    assert num_entries(cache) == 8


def test_random_views_are_never_cached(tmp_path: Path, cache: FeatureCache) -> None:
    domain = tiny_domain(tmp_path, augmentation=Augmentation(flip=True))
    run(tmp_path / "a", domain, "last_stage", 1, cache=cache)
    assert num_entries(cache) == 0
    run(tmp_path / "b", domain, "linear_probe", 1, cache=cache)  # trains on fixed views by its own choice
    assert num_entries(cache) == 2


def test_fixed_augmented_views_are_random_views_drawn_once(tmp_path: Path, cache: FeatureCache) -> None:
    """Training from cached views is training a head by hand on the features of these views, a view an epoch."""
    domain = tiny_domain(tmp_path, augmentation=Augmentation(crop_padding=4, flip=True))
    how = training("last_stage", 5, SGD, Constant())
    rules = {r"(mapping|head)\..*": {"lr_scale": 1}, r"backbone\..*": None}
    probe = Strategy("probe", [{"name": "probe", "augment": True, "rules": rules}])
    how = replace(how, augmented_views=2, strategy=probe)
    net = network("resnet20")
    head = copy.deepcopy(net.head)
    fitted = fit_stage(stage(tmp_path / "a", domain, how, cache=cache), net)
    assert num_entries(cache) == 3  # two views of train, one of val
    assert domain.preprocessing is not None
    view = View(domain.preprocessing, domain.augmentation, domain.num_classes)
    features = []
    with torch.no_grad():
        for number in range(2):
            rows = []
            for index, batch in enumerate(domain.loader("train")):
                generator = torch.Generator().manual_seed(stable_seed(0, "augmented view", number, index))
                rows.append(net.backbone(view.train(batch, generator).x))
            features.append(torch.cat(rows))
    assert not torch.equal(*features)
    optimizer = SGD(head.parameters())
    sampler = EpochSampler(len(features[0]), domain.batch_size, stable_seed(0, "order"))
    for epoch in range(5):
        sampler.set_epoch(epoch)
        for positions in sampler:
            optimizer.zero_grad()
            labels = domain.datasets["train"].labels[positions]
            torch.nn.functional.cross_entropy(head(features[epoch % 2][positions]), labels).backward()
            optimizer.step()
    assert torch.equal(fitted.last["head.linear.weight"], head.linear.weight)


def test_resumed_is_bit_equal_with_fixed_augmented_views_too(tmp_path: Path, cache: FeatureCache) -> None:
    domain = tiny_domain(tmp_path, augmentation=Augmentation(flip=True))

    def fit(folder: str, *callbacks: Callback) -> Fitted:
        how = replace(training("last_stage", 5, callbacks=callbacks), augmented_views=3)
        return fit_stage(stage(tmp_path / folder, domain, how, cache=cache), network("resnet20"))

    undisturbed = fit("a")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit("b", Interrupt(3))
    assert equal(undisturbed.last, fit("b").last)


def test_fixed_augmented_views_that_exceed_the_limit_are_refused(tmp_path: Path, cache: FeatureCache) -> None:
    domain = tiny_domain(tmp_path, augmentation=Augmentation(flip=True))
    how = replace(training("last_stage", 1), augmented_views=2)
    small = FeatureCache(cache.store, limit=10_000)
    with pytest.raises(UserError, match=r"features.augmented_views=2: .* exceeds features.cache_limit_gib"):
        fit_stage(stage(tmp_path / "a", domain, how, cache=small), network("resnet20"))


def test_what_exceeds_the_limit_is_trained_through(tmp_path: Path, domain: Domain, cache: FeatureCache) -> None:
    small = FeatureCache(cache.store, limit=10_000)
    fitted = run(tmp_path / "a", domain, "last_stage", 2, cache=small)
    assert num_entries(cache) == 0
    assert equal(fitted.last, run(tmp_path / "b", domain, "last_stage", 2).last)


def test_the_cache_stays_within_its_limit(tmp_path: Path, domain: Domain, cache: FeatureCache) -> None:
    run(tmp_path / "a", domain, "linear_probe", 1, cache=cache)
    used = sum(size_of(path.parent) for path in cache.store.root.glob("features/*/*/manifest.json"))
    full = FeatureCache(cache.store, limit=used + 1000)
    run(tmp_path / "b", domain, "linear_probe", 1, cache=full, network=network("resnet20", seed=1))
    assert num_entries(cache) == 2
    run(tmp_path / "c", domain, "linear_probe", 1, cache=full)
    assert num_entries(cache) == 2


def test_damaged_features_are_computed_again(tmp_path: Path, domain: Domain, cache: FeatureCache) -> None:
    expected = run(tmp_path / "a", domain, "linear_probe", 2, cache=cache)
    for path in cache.store.root.glob("features/*/*/values.bin"):
        path.write_bytes(b"\0" * path.stat().st_size)
    assert equal(run(tmp_path / "b", domain, "linear_probe", 2, cache=cache).last, expected.last)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_train_from_cached_features_too(
    tmp_path: Path, domain: Domain, cache: FeatureCache, precision: str
) -> None:
    cached = run(tmp_path / "a", domain, "gradual_unfreeze", 6, cache=cache, precision=precision)
    through = run(tmp_path / "b", domain, "gradual_unfreeze", 6, precision=precision)
    for name, tensor in through.last.items():
        torch.testing.assert_close(cached.last[name], tensor, rtol=0.05, atol=0.02)


def test_caching_features_is_part_of_the_cost(
    tmp_path: Path, domain: Domain, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = FeatureCache.get_all

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.3)
        return get(*arguments)

    monkeypatch.setattr(FeatureCache, "get_all", slowly)
    fitted = run(tmp_path, domain, "linear_probe", 2, cache=cache)
    assert fitted.seconds >= fitted.history[-1]["seconds"] >= fitted.history[0]["seconds"] >= 0.3


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp_spawn", "fsdp"])
def test_two_processes_arrive_at_the_weights_of_one_with_the_same_batch(tmp_path: Path, way: str) -> None:
    cache = FeatureCache(Store(tmp_path / "store"), limit=2**30)  # what the first phase is trained on is sent to both

    def fitted(name: str, batch_size: int, **trainer: Any) -> Fitted:
        how = training("lp_ft", 2, partial(torch.optim.SGD, lr=0.05, momentum=0.9), **trainer)
        data = tiny_domain(tmp_path, batch_size=batch_size)
        return fit_stage(stage(tmp_path / name, data, how, cache=cache), network("cnn"))

    one, two = fitted("one", 16), fitted("two", 8, strategy=way, devices=2)
    assert [row["step"] for row in two.history] == [row["step"] for row in one.history]
    for name, weights in one.last.items():
        torch.testing.assert_close(two.last[name], weights, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_processes_that_share_all_weights_go_on_from_what_one_has_left(tmp_path: Path) -> None:
    def fitted(name: str, batch_size: int, *callbacks: Callback, **trainer: Any) -> Fitted:
        how = training("fine_tune", 2, partial(torch.optim.AdamW, lr=1e-3), callbacks=callbacks, **trainer)
        return fit_stage(stage(tmp_path / name, tiny_domain(tmp_path, batch_size=batch_size), how), network("cnn"))

    undisturbed = fitted("undisturbed", 16)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fitted("interrupted", 16, Interrupt(epoch=1))
    resumed = fitted("interrupted", 8, strategy="fsdp", devices=2, gradient_clip_val=100.0)
    assert [row["epoch"] for row in resumed.history] == [1, 2]
    for name, weights in undisturbed.last.items():
        torch.testing.assert_close(resumed.last[name], weights, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_agree_after_a_thaw(tmp_path: Path, domain: Domain) -> None:
    fitted = run(tmp_path / "a", domain, "lp_ft", 2, SameOnAllRanks(), strategy="ddp_spawn", devices=2)
    assert {row["phase"] for row in fitted.history} == {"probe", "fine_tune"}
    before = dict(network("resnet20").named_parameters())
    assert [name for name, tensor in before.items() if torch.equal(fitted.last[name], tensor)] == []
