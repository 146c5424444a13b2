"""Frozen means fixed, thawed means trained, and every learning rate is its closed form."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Adagrad, AdamW, Optimizer

from graft.data.preprocessing import Preprocessing
from graft.errors import UserError
from graft.models.backbones.base import Backbone, Overrides
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network
from graft.strategies.engine import (
    apply_phase,
    frozen_prefix,
    make_optimizer,
    optimizer_state_by_name,
    parameter_groups,
    parameters_by_name,
    restore_optimizer_state,
    set_learning_rates,
    set_train_modes,
    train_modes,
)
from graft.strategies.phases import ResolvedPhase, Strategy
from graft.strategies.schedules import Constant, Cosine, OneCycle, Schedule, Step

Batch = tuple[Tensor, Tensor]
OnePhase = Callable[..., Strategy]

HEAD = {r"head\..*": {}, ".*": None}
LAST = {r"head\..*": {}, r"backbone\.<-1>\..*": {}, ".*": None}
ALL: dict[str, Any] = {".*": {}}
THAWING = Strategy(
    "thawing",
    [
        {"name": "all", "rules": ALL, "until": {"epochs": 1}},
        {"name": "head", "rules": HEAD, "until": {"epochs": 1}},
        {"name": "last", "rules": LAST, "until": {"epochs": 1}},
        {"name": "all again", "rules": ALL},
    ],
)
FACTORIES: list[Any] = [
    partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    partial(AdamW, lr=0.1, weight_decay=0.1),
]


def train(network: Network, optimizer: Optimizer, batch: Batch, steps: int = 3, set_to_none: bool = True) -> None:
    x, y = batch
    for step in range(steps):
        torch.manual_seed(step)
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)


def run_phase(network: Network, phase: ResolvedPhase, batch: Batch, factory: Any, **settings: Any) -> Optimizer:
    apply_phase(network, phase)
    optimizer = make_optimizer(network, phase, factory)
    train(network, optimizer, batch, **settings)
    return optimizer


def state(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if name.startswith(prefix)}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Frozen means fixed


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("factory", FACTORIES, ids=["sgd", "adamw"])
def test_what_is_frozen_in_the_middle_of_a_run_is_bit_equal_afterwards(
    tiny: Network, batch: Batch, factory: Any, set_to_none: bool
) -> None:
    """Momentum, weight decay and stale gradients would all move it; running statistics would drift."""
    everything, head_only, *_ = THAWING.resolve(tiny, 4)
    run_phase(tiny, everything, batch, factory, set_to_none=set_to_none)
    F.cross_entropy(tiny(batch[0]), batch[1]).backward()  # the gradient left over when the freeze comes
    before = state(tiny.backbone)
    run_phase(tiny, head_only, batch, factory, set_to_none=set_to_none)
    assert equal(state(tiny.backbone), before)
    assert all(parameter.grad is None for parameter in tiny.backbone.parameters())


def test_modes_can_be_put_back_after_the_trainer_has_changed_them(tiny: Network, batch: Batch) -> None:
    _, _, last, _ = THAWING.resolve(tiny, 4)
    apply_phase(tiny, last)
    modes = [module.training for module in tiny.modules()]
    frozen = state(tiny.backbone.stem) | state(tiny.backbone.stage1)
    for change in (tiny.train, tiny.eval):
        change()
        set_train_modes(train_modes(tiny, last))
        assert [module.training for module in tiny.modules()] == modes
        tiny(batch[0])
    assert equal(state(tiny.backbone.stem) | state(tiny.backbone.stage1), frozen)


def test_training_statistics_move_in_frozen_groups_too_and_nothing_else(
    tiny: Network, batch: Batch, one_phase: OnePhase
) -> None:
    [phase] = one_phase(HEAD, norm_statistics="train").resolve(tiny, 1)
    apply_phase(tiny, phase)
    assert frozen_prefix(tiny, phase) == 0
    before = state(tiny.backbone)
    tiny(batch[0])
    moved = {name.rpartition(".")[2] for name, value in state(tiny.backbone).items() if not value.equal(before[name])}
    assert moved == {"running_mean", "running_var", "num_batches_tracked"}
    assert not any(m.training for m in tiny.backbone.modules() if not isinstance(m, nn.BatchNorm2d))


def test_modes_follow_what_is_trained(tiny: Network) -> None:
    _, _, last, _ = THAWING.resolve(tiny, 4)
    apply_phase(tiny, last)
    training = {name for name, module in tiny.named_modules() if module.training}
    stage = {f"backbone.stage2{part}" for part in ("", ".conv", ".bn", ".relu", ".drop", ".pool", ".flatten")}
    assert training == {"", "backbone", "mapping", "head", "head.linear"} | stage


def test_a_frozen_part_is_a_fixed_function_of_each_image(tiny: Network, batch: Batch) -> None:
    """No dropout inside it, and no dependence on the other images of the batch."""
    _, head_only, *_ = THAWING.resolve(tiny, 4)
    tiny.train()
    apply_phase(tiny, head_only)
    x, _ = batch
    first, second = tiny.backbone(x), tiny.backbone(x)
    assert torch.equal(first, second)
    torch.testing.assert_close(tiny.backbone(x[:2]), first[:2])


def test_a_trained_part_does_draw_at_random(tiny: Network, batch: Batch) -> None:
    everything, *_ = THAWING.resolve(tiny, 4)
    apply_phase(tiny, everything)
    assert not torch.equal(tiny(batch[0]), tiny(batch[0]))


def test_norm_statistics_can_be_fixed_while_everything_is_trained(
    tiny: Network, batch: Batch, one_phase: OnePhase
) -> None:
    [phase] = one_phase(ALL, norm_statistics="eval").resolve(tiny, 1)
    before = {name: buffer.clone() for name, buffer in tiny.named_buffers()}
    weight = tiny.backbone.stem.bn.weight.clone()
    run_phase(tiny, phase, batch, FACTORIES[0])
    assert equal(dict(tiny.named_buffers()), before)
    assert not torch.equal(tiny.backbone.stem.bn.weight, weight)
    assert tiny.backbone.stem.drop.training


def test_a_frozen_norm_layer_inside_a_trained_group_keeps_its_statistics(
    tiny: Network, batch: Batch, one_phase: OnePhase
) -> None:
    [phase] = one_phase({"<norm>": None, ".*": {}}).resolve(tiny, 1)
    before = state(tiny.backbone.stem.bn)
    conv = state(tiny.backbone.stem.conv)
    run_phase(tiny, phase, batch, FACTORIES[1])
    assert equal(state(tiny.backbone.stem.bn), before)
    assert not equal(state(tiny.backbone.stem.conv), conv)


class Gathered(Backbone):
    """A layer group that is a view: its modules lie elsewhere in the tree, beside trained ones."""

    def __init__(self) -> None:
        super().__init__(4, Preprocessing(size=6, mean=(0.5,), std=(0.5,)), Overrides())
        self.embed = nn.Linear(36, 4)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(4, 4)

    @property
    def layer_groups(self) -> dict[str, nn.Module]:
        return {"stem": nn.ModuleDict({"embed": self.embed, "drop": self.drop}), "stage1": self.last}

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.last(self.drop(self.embed(x.flatten(1))))
        return features


def test_a_frozen_layer_group_is_fixed_wherever_its_modules_lie(batch: Batch) -> None:
    network = Network(Gathered(), IdentityMapping(4), LinearHead(4, 3))
    _, _, last, _ = THAWING.resolve(network, 4)
    apply_phase(network, last)
    assert not network.backbone.drop.training
    assert torch.equal(network(batch[0]), network(batch[0]))


# Thawed means trained


@pytest.mark.parametrize("factory", FACTORIES, ids=["sgd", "adamw"])
def test_trainable_is_in_the_optimiser_is_moved(tiny: Network, batch: Batch, factory: Any) -> None:
    """After each thaw. The biases of all three norm layers are equal (zero): they are told apart by identity."""
    for phase in THAWING.resolve(tiny, 4):
        apply_phase(tiny, phase)
        optimizer = make_optimizer(tiny, phase, factory)
        in_optimizer = {id(p) for group in optimizer.param_groups for p in group["params"]}
        parameters = parameters_by_name(tiny)
        assert {name for name, p in parameters.items() if id(p) in in_optimizer} == phase.trained_names
        assert {name for name, p in parameters.items() if p.requires_grad} == phase.trained_names
        before = {name: p.detach().clone() for name, p in parameters.items()}
        tiny.backbone.eval()  # statistics of the batch would make the gradient of a bias before them zero
        x, y = batch
        F.cross_entropy(tiny(x), y).backward()
        assert {name for name, p in parameters.items() if p.grad is not None} == phase.trained_names
        optimizer.step()
        moved = {name for name, p in parameters.items() if not torch.equal(p, before[name])}
        assert moved == phase.trained_names


def test_the_head_moves_in_the_first_step(tiny: Network, batch: Batch) -> None:
    for phase in THAWING.resolve(tiny, 4):
        apply_phase(tiny, phase)
        before = state(tiny.head)
        train(tiny, make_optimizer(tiny, phase, FACTORIES[0]), batch, steps=1)
        assert not any(torch.equal(value, before[name]) for name, value in state(tiny.head).items())


# Optimiser groups


GOLDEN_RULES = {
    r"head\..*": {"lr_scale": 10, "weight_decay": 0},
    r"backbone\.stem\..*": None,
    "<norm>": {"lr_scale": 1, "weight_decay": 0},
    r"backbone\.<-1>\..*": {"lr_scale": 0.5},
    r"backbone\..*": {"lr_scale": 0.5, "layer_decay": 0.1},
}
GOLDEN = [
    # name, learning rate, weight decay, frozen
    ("backbone.stem.conv.weight", None, None, True),
    ("backbone.stem.conv.bias", None, None, True),
    ("backbone.stem.bn.weight", None, None, True),
    ("backbone.stem.bn.bias", None, None, True),
    ("backbone.stage1.conv.weight", 0.001, 0.3, False),  # 0.2 x 0.5 x 0.1^2
    ("backbone.stage1.conv.bias", 0.001, 0.3, False),
    ("backbone.stage1.bn.weight", 0.2, 0.0, False),
    ("backbone.stage1.bn.bias", 0.2, 0.0, False),
    ("backbone.stage2.conv.weight", 0.1, 0.3, False),
    ("backbone.stage2.conv.bias", 0.1, 0.3, False),
    ("backbone.stage2.bn.weight", 0.2, 0.0, False),
    ("backbone.stage2.bn.bias", 0.2, 0.0, False),
    ("head.linear.weight", 2.0, 0.0, False),
    ("head.linear.bias", 2.0, 0.0, False),
]


def dump(network: Network, optimizer: Optimizer) -> list[tuple[str, float | None, float | None, bool]]:
    """What the optimiser and the tensors themselves say."""
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    return [
        (name, group and round(group["lr"], 9), group and group["weight_decay"], not parameter.requires_grad)
        for name, _, parameter in network.named_group_parameters()
        for group in [settings.get(id(parameter))]
    ]


@pytest.mark.parametrize("factory", [partial(SGD, lr=0.2, weight_decay=0.3), partial(AdamW, lr=0.2, weight_decay=0.3)])
def test_golden_settings(tiny: Network, one_phase: OnePhase, factory: Any) -> None:
    [phase] = one_phase(GOLDEN_RULES).resolve(tiny, 1)
    apply_phase(tiny, phase)
    assert dump(tiny, make_optimizer(tiny, phase, factory)) == GOLDEN


def test_groups_are_named_after_layer_groups(tiny: Network, one_phase: OnePhase) -> None:
    [phase] = one_phase(GOLDEN_RULES).resolve(tiny, 1)
    groups = parameter_groups(tiny, phase, lr=0.2, weight_decay=0.3)
    assert [(group["name"], group["param_names"]) for group in groups] == [
        ("backbone.stage1(lr_scale=0.005,weight_decay=0.3)", [f"backbone.stage1.conv.{p}" for p in ("weight", "bias")]),
        ("backbone.stage1(lr_scale=1,weight_decay=0)", [f"backbone.stage1.bn.{p}" for p in ("weight", "bias")]),
        ("backbone.stage2(lr_scale=0.5,weight_decay=0.3)", [f"backbone.stage2.conv.{p}" for p in ("weight", "bias")]),
        ("backbone.stage2(lr_scale=1,weight_decay=0)", [f"backbone.stage2.bn.{p}" for p in ("weight", "bias")]),
        ("head", ["head.linear.weight", "head.linear.bias"]),
    ]


def test_lbfgs_has_one_group(tiny: Network, batch: Batch, one_phase: OnePhase) -> None:
    [phase] = one_phase(ALL, norm_statistics="eval").resolve(tiny, 1)
    apply_phase(tiny, phase)
    tiny.eval()
    optimizer = make_optimizer(tiny, phase, partial(LBFGS, lr=0.5, line_search_fn="strong_wolfe"))
    x, y = batch

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(tiny(x), y)
        loss.backward()
        return loss.item()

    first = closure()
    set_learning_rates(optimizer, 0.5)
    optimizer.step(closure)
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert closure() < first


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({r"head\..*": {"lr_scale": 10}, ".*": {}}, "one learning rate for all parameters"),
        ({".*": {"weight_decay": 0.1}}, "no weight decay"),
    ],
)
def test_lbfgs_refuses_what_it_would_ignore(tiny: Network, one_phase: OnePhase, rules: Any, message: str) -> None:
    [phase] = one_phase(rules).resolve(tiny, 1)
    with pytest.raises(UserError, match=message):
        make_optimizer(tiny, phase, partial(LBFGS, lr=1.0))


# Learning rates


@pytest.mark.parametrize("schedule", [Constant(), Cosine(), OneCycle(), Step()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("thaw_epoch", [1, 2, 4])
def test_late_groups_follow_the_same_curve(tiny: Network, schedule: Schedule, thaw_epoch: int) -> None:
    """Traces per group from the optimisers, over two phases and an interruption, against the closed form."""
    head = {r"head\..*": {"lr_scale": 10}, r"backbone\..*": None}
    both = {r"head\..*": {"lr_scale": 10}, r"backbone\..*": {"layer_decay": 0.5}}
    phases = Strategy(
        "thaw", [{"name": "head", "rules": head, "until": {"epochs": thaw_epoch}}, {"name": "both", "rules": both}]
    ).resolve(tiny, 6)
    steps_per_epoch, total = 3, 18
    factory = partial(SGD, lr=0.1, momentum=0.9)
    traces: dict[str, dict[int, float]] = {}
    for phase in phases:
        optimizer = make_optimizer(tiny, phase, factory)
        for step in range(phase.first_epoch * 3, (phase.first_epoch + phase.max_epochs) * steps_per_epoch):
            if step == 13:  # a resumed run makes its optimiser anew
                optimizer = make_optimizer(tiny, phase, factory)
            set_learning_rates(optimizer, schedule(step, total))
            for group in optimizer.param_groups:
                traces.setdefault(group["name"], {})[step] = group["lr"]
    scales = {"head": 10, "backbone.stage2": 0.5, "backbone.stage1": 0.25, "backbone.stem": 0.125}
    for name, scale in scales.items():
        start = 0 if name == "head" else thaw_epoch * steps_per_epoch
        expected = {step: 0.1 * scale * schedule(step, total) for step in range(start, total)}
        assert traces.pop(name) == pytest.approx(expected)
    assert not traces


# Optimiser state from phase to phase


@pytest.mark.parametrize("factory", [*FACTORIES, partial(Adagrad, lr=0.1)], ids=["sgd", "adamw", "adagrad"])
def test_state_is_carried_by_parameter_name(tiny: Network, batch: Batch, factory: Any) -> None:
    _, head_only, _, everything = THAWING.resolve(tiny, 4)
    first = run_phase(tiny, head_only, batch, factory)
    buffer = BytesIO()
    torch.save(optimizer_state_by_name(first), buffer)
    buffer.seek(0)
    carried = torch.load(buffer, weights_only=True)
    apply_phase(tiny, everything)
    second = make_optimizer(tiny, everything, factory)
    fresh = optimizer_state_by_name(make_optimizer(tiny, everything, factory))["state"]
    restore_optimizer_state(second, carried)
    state = optimizer_state_by_name(second)["state"]
    for name in everything.trained_names:
        expected = carried["state"] if name in head_only.trained_names else fresh
        assert repr(state.get(name)) == repr(expected.get(name)), name
    kept = {name: {slot: torch.as_tensor(v).clone() for slot, v in s.items()} for name, s in carried["state"].items()}
    train(tiny, second, batch)
    for name, slots in kept.items():
        assert equal({slot: torch.as_tensor(value) for slot, value in carried["state"][name].items()}, slots)


def test_a_phase_that_carries_on_equals_one_long_phase(tiny: Network, batch: Batch) -> None:
    phase = THAWING.resolve(tiny, 4)[0]
    start = state(tiny)
    train_once = run_phase(tiny, phase, batch, FACTORIES[1], steps=2)
    carried = optimizer_state_by_name(train_once)
    apply_phase(tiny, phase)
    optimizer = make_optimizer(tiny, phase, FACTORIES[1])
    restore_optimizer_state(optimizer, carried)
    train(tiny, optimizer, batch, steps=2)
    in_two = state(tiny)
    tiny.load_state_dict(start)
    apply_phase(tiny, phase)
    whole = make_optimizer(tiny, phase, FACTORIES[1])
    train(tiny, whole, batch, steps=2)
    train(tiny, whole, batch, steps=2)
    assert equal(state(tiny), in_two)


def test_lbfgs_state_is_carried_only_between_equal_sets(tiny: Network) -> None:
    _, head_only, last, _ = THAWING.resolve(tiny, 4)
    factory = partial(LBFGS, lr=0.1)
    first = make_optimizer(tiny, head_only, factory)
    first.state[first.param_groups[0]["params"][0]]["n_iter"] = 7
    carried = optimizer_state_by_name(first)
    for phase, num_iterations in ((head_only, 7), (last, 0)):
        optimizer = make_optimizer(tiny, phase, factory)
        restore_optimizer_state(optimizer, carried)
        slots = next(iter(optimizer_state_by_name(optimizer)["state"].values()), {})
        assert slots.get("n_iter", 0) == num_iterations


def test_fine_tuning_starts_from_the_function_the_probe_ended_with(tiny: Network, batch: Batch) -> None:
    """Linear probe then fine-tune: the same logits at step 0 in the mode that trains, with an empty optimiser."""
    probe, fine_tune = Strategy(
        "lp_ft",
        [
            {"name": "probe", "rules": HEAD, "until": {"epochs": 1}},
            {"name": "fine_tune", "rules": ALL, "restart": True, "norm_statistics": "eval"},
        ],
    ).resolve(tiny, 2)
    for module in tiny.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    run_phase(tiny, probe, batch, FACTORIES[1])
    logits = tiny(batch[0])
    apply_phase(tiny, fine_tune)
    assert fine_tune.restart
    assert torch.equal(tiny(batch[0]), logits)
    assert not make_optimizer(tiny, fine_tune, FACTORIES[1]).state
