"""Adapters through the phases of a stage: what is fixed stays, what is thawed trains, a resumed stage ends the same."""

from pathlib import Path

import pytest
import torch
from builders import Interrupt, network, stage, tiny_domain, training
from pytorch_lightning import Callback

from graft.data.domain import Domain
from graft.features import FeatureCache
from graft.models.adapters.base import Adapter
from graft.models.adapters.bottleneck import Bottleneck
from graft.models.adapters.layers import Targets
from graft.models.adapters.lora import Lora
from graft.models.network import Network, initial_weights
from graft.records.store import Store
from graft.stage import Fitted, fit_stage
from graft.strategies.plan import plan_table

LORA = Lora(name="lora", targets=Targets(), rank=2, dropout=0.1)
BOTTLENECK = Bottleneck(name="bottleneck", targets=Targets(), rank=2)


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return tiny_domain(tmp_path)


def adapted(adapter: Adapter) -> Network:
    made = network("resnet20")
    with initial_weights(0, "adapter"):
        made.backbone = adapter.adapt(made.backbone, 32)
    return made


def fit(
    folder: Path, domain: Domain, how: str, adapter: Adapter, *callbacks: Callback, cache: FeatureCache | None = None
) -> Fitted:
    trained = training(how, 5, callbacks=callbacks)
    return fit_stage(stage(folder, domain, trained, cache=cache), adapted(adapter))


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("adapter", [LORA, BOTTLENECK], ids=lambda adapter: adapter.name)
@pytest.mark.parametrize("how", ["fine_tune", "gradual_unfreeze"])
def test_weights_and_statistics_stay_and_the_adapter_moves(
    tmp_path: Path, domain: Domain, how: str, adapter: Adapter
) -> None:
    start = adapted(adapter)
    fitted, before = fit(tmp_path / "a", domain, how, adapter), start.state_dict()
    brought = {name for name, _, _ in start.named_group_parameters()} - start.fixed_names
    assert {name for name in before if not torch.equal(before[name], fitted.last[name])} == brought
    sizes = {name: parameter.numel() for name, _, parameter in start.named_group_parameters()}
    assert fitted.trainable_parameters == sum(sizes[name] for name in brought)


@pytest.mark.parametrize("adapter", [LORA, BOTTLENECK], ids=lambda adapter: adapter.name)
@pytest.mark.parametrize("epoch", [0, 2, 3])
def test_resumed_is_bit_equal_to_undisturbed(tmp_path: Path, domain: Domain, adapter: Adapter, epoch: int) -> None:
    undisturbed = fit(tmp_path / "a", domain, "gradual_unfreeze", adapter)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "b", domain, "gradual_unfreeze", adapter, Interrupt(epoch))
    assert equal(undisturbed.last, fit(tmp_path / "b", domain, "gradual_unfreeze", adapter).last)


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
