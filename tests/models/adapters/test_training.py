"""Adapters through the phases of a stage: what is fixed stays, what is thawed trains, a resumed stage ends the same."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import Interrupt, network, stage, tiny_domain, training
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging

from graft.callbacks.checkpoints import LAST, read_checkpoint
from graft.data.domain import Domain
from graft.features import FeatureCache
from graft.models.adapters.adalora import AdaLora
from graft.models.adapters.base import Adapter
from graft.models.adapters.bottleneck import Bottleneck
from graft.models.adapters.dora import Dora
from graft.models.adapters.ia3 import Ia3
from graft.models.adapters.layers import Targets
from graft.models.adapters.lora import Lora
from graft.models.network import Network, initial_weights
from graft.records.store import Store
from graft.regularisers.base import Regulariser
from graft.regularisers.sam import SAM
from graft.stage import Fitted, fit_stage
from graft.strategies.engine import make_optimizer
from graft.strategies.phases import Strategy
from graft.strategies.plan import plan_table

LORA = Lora(name="lora", targets=Targets(), rank=2, dropout=0.1)
BOTTLENECK = Bottleneck(name="bottleneck", targets=Targets(), rank=2)
ADALORA = AdaLora(name="adalora", targets=Targets(), initial_rank=3, target_rank=1, tinit=0.2, tfinal=0.3, delta_t=2)
ADAPTERS = pytest.mark.parametrize("adapter", [LORA, BOTTLENECK, ADALORA], ids=lambda adapter: adapter.name)


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return tiny_domain(tmp_path)


def adapted(adapter: Adapter) -> Network:
    made = network("resnet20")
    with initial_weights(0, "adapter"):
        made.backbone = adapter.adapt(made.backbone, 32)
    return made


def fit(
    folder: Path,
    domain: Domain,
    how: str,
    adapter: Adapter,
    *callbacks: Callback,
    cache: FeatureCache | None = None,
    **settings: Any,
) -> Fitted:
    trained = training(how, 5, **{"callbacks": callbacks} | settings)
    return fit_stage(stage(folder, domain, trained, cache=cache), adapted(adapter))


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@ADAPTERS
@pytest.mark.parametrize("how", ["fine_tune", "gradual_unfreeze"])
def test_weights_and_statistics_stay_and_the_adapter_moves(
    tmp_path: Path, domain: Domain, how: str, adapter: Adapter
) -> None:
    start = adapted(adapter)
    fitted, before = fit(tmp_path / "a", domain, how, adapter), start.state_dict()
    brought = {name for name, _, _ in start.named_group_parameters()} - start.fixed_names
    moved = {name for name in before if not torch.equal(before[name], fitted.last[name])}
    assert moved <= brought
    assert all("lora_E" in name for name in brought - moved)  # given up, and so where it began
    assert len(brought - moved) < len(brought) / 4
    sizes = {name: parameter.numel() for name, _, parameter in start.named_group_parameters()}
    assert fitted.trainable_parameters == sum(sizes[name] for name in brought)


@ADAPTERS
def test_resumed_is_bit_equal_to_undisturbed(tmp_path: Path, domain: Domain, adapter: Adapter) -> None:
    undisturbed = fit(tmp_path / "a", domain, "gradual_unfreeze", adapter)
    for epoch in (0, 2, 3):
        folder = tmp_path / f"b{epoch}"
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(folder, domain, "gradual_unfreeze", adapter, Interrupt(epoch))
        assert equal(undisturbed.last, fit(folder, domain, "gradual_unfreeze", adapter).last), epoch


def test_features_at_the_freeze_boundary_give_the_same_weights(tmp_path: Path, domain: Domain) -> None:
    cache = FeatureCache(Store(tmp_path / "store"), limit=2**30)
    cached = fit(tmp_path / "a", domain, "gradual_unfreeze", LORA, cache=cache)
    assert any(cache.store.root.glob("features/*/*"))
    assert equal(cached.last, fit(tmp_path / "b", domain, "gradual_unfreeze", LORA).last)


def test_the_plan_counts_what_is_trained() -> None:
    made = adapted(LORA)
    phases = training("gradual_unfreeze").strategy.resolve(made, 5)
    rows = plan_table(made, phases, lr=0.1, weight_decay=0.0)
    sizes = {name: parameter.numel() for name, _, parameter in made.named_group_parameters()}
    for phase in phases:
        trained = sum(row["num_parameters"] for row in rows if row["phase"] == phase.name and row["state"] == "trained")
        assert trained == sum(sizes[name] for name in phase.trained_names)
    assert all("lora" in name or name.startswith("head.") for phase in phases for name in phase.trained_names)
    first = {row["group"] for row in rows if row["phase"] == phases[1].name and row["state"] == "trained"}
    assert first == {"backbone.stage3", "head"}


def importances(folder: Path) -> dict[str, torch.Tensor]:
    state = read_checkpoint(folder / LAST)["state_dict"]
    return {name: tensor for name, tensor in state.items() if "sensitivity" in name or "uncertainty" in name}


@pytest.mark.parametrize(("epoch", "num_batches"), [(1, 1), (3, 2), (4, 1)])
def test_what_mattered_is_in_the_checkpoint(tmp_path: Path, domain: Domain, epoch: int, num_batches: int) -> None:
    """Cut off before, while and after ranks are given up, with one or several batches a step."""
    how = {"accumulate_grad_batches": num_batches}
    undisturbed = fit(tmp_path / "a", domain, "gradual_unfreeze", ADALORA, **how)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "b", domain, "gradual_unfreeze", ADALORA, Interrupt(epoch), **how)
    assert equal(undisturbed.last, fit(tmp_path / "b", domain, "gradual_unfreeze", ADALORA, **how).last)
    assert any(tensor.any() for tensor in importances(tmp_path / "a").values())
    assert equal(importances(tmp_path / "a"), importances(tmp_path / "b"))


def test_resumed_is_bit_equal_under_averaged_weights(tmp_path: Path, domain: Domain) -> None:
    averaging = EMAWeightAveraging(decay=0.9)
    undisturbed = fit(tmp_path / "a", domain, "lp_ft", ADALORA, averaging)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "b", domain, "lp_ft", ADALORA, EMAWeightAveraging(decay=0.9), Interrupt(4))
    assert equal(undisturbed.last, fit(tmp_path / "b", domain, "lp_ft", ADALORA, EMAWeightAveraging(decay=0.9)).last)


def final_ranks(fitted: Fitted) -> list[int]:
    return [int(tensor.count_nonzero()) for name, tensor in fitted.last.items() if "lora_E" in name]


@pytest.mark.parametrize("regularisers", [{}, {"sam": SAM()}], ids=["plain", "sam"])
def test_the_budget_is_spent_over_all_layers_and_on_what_mattered(
    tmp_path: Path, domain: Domain, regularisers: dict[str, Regulariser]
) -> None:
    trained = replace(training("fine_tune", 5), regularisers=regularisers)
    fitted = fit_stage(stage(tmp_path / "a", domain, trained), adapted(ADALORA))
    ranks = final_ranks(fitted)
    assert sum(ranks) == len(ranks) * ADALORA.target_rank
    assert len(set(ranks)) > 1
    assert fitted.history[-1]["train/orthogonality"] < fitted.history[0]["train/orthogonality"]


def test_layers_that_are_thawed_late_or_never_take_no_part(tmp_path: Path, domain: Domain) -> None:
    """The last layer group alone, then all of them after the last allocation: what is new keeps its initial rank."""
    phases = [
        {"name": "last", "until": {"epochs": 4}, "rules": {r"backbone\.<-1>\..*|head\..*": {}, ".*": None}},
        {"name": "all", "rules": {".*": {}}},
    ]
    early, whole = (
        fit_stage(
            stage(tmp_path / name, domain, replace(training(max_epochs=5), strategy=Strategy(name, chosen))),
            adapted(ADALORA),
        )
        for name, chosen in (("early", [{"name": "last", "rules": phases[0]["rules"]}]), ("whole", phases))
    )
    made = adapted(ADALORA)
    names = [name for name, _, _ in made.named_group_parameters() if "lora_E" in name]
    is_last = [name.startswith("backbone.stage3.") for name in names]
    for fitted, rank_of_others in ((early, 0), (whole, ADALORA.initial_rank)):
        ranks = final_ranks(fitted)
        assert sum(rank for rank, last in zip(ranks, is_last, strict=True) if last) == sum(is_last)
        assert {rank for rank, last in zip(ranks, is_last, strict=True) if not last} == {rank_of_others}


def test_ranks_settled_before_a_freeze_stay(tmp_path: Path, domain: Domain) -> None:
    """What is frozen again is left alone by later allocations."""
    last = r"backbone\.<-1>\..*|head\..*"
    phases = [
        {"name": "all", "until": {"epochs": 2}, "rules": {".*": {}}},
        {"name": "last", "rules": {last: {}, ".*": None}},
    ]
    states: list[dict[str, torch.Tensor]] = []

    class Note(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            state = pl_module.network.state_dict()
            states.append({name: tensor.clone() for name, tensor in state.items() if "lora_E" in name})

    how = replace(training(max_epochs=5, callbacks=(Note(),)), strategy=Strategy("back", phases))
    fit_stage(stage(tmp_path / "a", domain, how), adapted(ADALORA))
    moved = {name for name in states[0] if not torch.equal(states[1][name], states[4][name])}
    assert moved
    assert all("stage3" in name for name in moved)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_ranks_are_given_up_in_every_precision(tmp_path: Path, domain: Domain, precision: str) -> None:
    fitted = fit(tmp_path / "a", domain, "fine_tune", ADALORA, precision=precision)
    assert sum(final_ranks(fitted)) == len(final_ranks(fitted)) * ADALORA.target_rank


@pytest.mark.parametrize("adapter", [Ia3(name="ia3", targets=Targets()), Dora(name="dora", targets=Targets(), rank=2)])
def test_factors_that_begin_at_one_are_not_decayed(adapter: Adapter) -> None:
    made = adapted(adapter)
    [phase] = training("fine_tune").strategy.resolve(made, 1)
    decays = {
        name: group["weight_decay"]
        for group in make_optimizer(made, phase, partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1)).param_groups
        for name in group["param_names"]
    }
    factors = {name for name in decays if "ia3_l" in name or "magnitude" in name}
    assert factors
    assert {name for name, decay in decays.items() if decay == 0.0} == factors
    decaying = Strategy("decaying", [{"name": "all", "rules": {".*": {"weight_decay": 0.2}}}])
    [phase] = decaying.resolve(made, 1)
    assert {entry.weight_decay for entry in phase.assignments if entry.lr_scale} == {0.2}
