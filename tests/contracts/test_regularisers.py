"""Every regulariser of `conf` trains, resumes bit-equal, shows its term, and is refused where it makes no sense."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import (
    ON_THE_NETWORK,
    Interrupt,
    SameOnAllRanks,
    network,
    stage,
    strategy,
    tiny_domain,
    training,
    write_arrays,
)
from conf_plugins import CONF, build, load, names
from hydra.core.config_loader import ConfigLoader
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import Tensor

from graft.build.validation import validate
from graft.callbacks.checkpoints import LAST, read_checkpoint
from graft.cli.compose import compose
from graft.data.augment import Augmentation
from graft.data.domain import Domain
from graft.errors import UserError
from graft.features import FeatureCache, Inference
from graft.models.backbones.base import Backbone
from graft.models.backbones.timm import TimmBackbone
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network
from graft.objectives.supervised import Outputs
from graft.records.store import Store
from graft.regularisers.base import Beginning, Origin, Regulariser, Step, Term, Trace
from graft.stage import Fitted, fit_stage
from graft.strategies.phases import Strategy

REGULARISERS = [name for name in names("regulariser") if name != "none"]
FEW_IMAGES = {"delta": {"attention": True, "num_images": 4}, "ewc": {"num_samples": 4}}  # where many take long


def regulariser(name: str, **settings: Any) -> Regulariser:
    [(key, node)] = yaml.safe_load((CONF / "regulariser" / f"{name}.yaml").read_text()).items()
    assert key == name
    return build(node | FEW_IMAGES.get(name, {}) | settings)


def chosen(*names: str) -> dict[str, Regulariser]:
    return {name: regulariser(name) for name in names}


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    folder = tmp_path_factory.mktemp("domain")
    write_arrays(folder / "tiny.npz", num_per_class=10)
    return tiny_domain(folder, batch_size=10)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, domain: Domain) -> Callable[..., Fitted]:
    """Stages without regularisers, each fitted once."""

    @cache
    def fitted(*how: Any) -> Fitted:
        return fit(tmp_path_factory.mktemp("plain") / "a", domain, {}, *how)

    return fitted


def fit(
    folder: Path,
    domain: Domain,
    regularisers: dict[str, Regulariser],
    backbone: str | Backbone = "cnn",
    how: str | Strategy = "fine_tune",
    epochs: int = 3,
    cached: bool = True,
    callbacks: tuple[Callback, ...] = (),
    averaged: bool = False,
    **settings: Any,
) -> Fitted:
    store = Store(folder.parent / "store")
    trained = replace(training(max_epochs=epochs, **settings), regularisers=regularisers)
    trained = replace(trained, strategy=strategy(how) if isinstance(how, str) else how)
    make_callbacks = lambda: [*callbacks, *([EMAWeightAveraging(decay=0.9)] if averaged else [])]  # noqa: E731
    trained = replace(trained, callbacks=make_callbacks)
    net = network(backbone) if isinstance(backbone, str) else with_linear_head(backbone)
    torch.manual_seed(1)
    origin = Origin(LinearHead(net.backbone.num_features, 4), domain, store)
    whole = stage(folder, domain, trained, cache=FeatureCache(store, 2**30) if cached else None)
    return fit_stage(replace(whole, origin=origin), net)


def with_linear_head(backbone: Backbone) -> Network:
    return Network(backbone, IdentityMapping(backbone.num_features), LinearHead(backbone.num_features, 3))


def equal(a: Fitted, b: Fitted) -> bool:
    return all(torch.equal(a.last[name], b.last[name]) for name in a.last)


def resumed(folder: Path, interrupted: int, *args: Any, **settings: Any) -> Fitted:
    """A stage cut off in the middle of an epoch and given again."""
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(folder, *args, callbacks=(Interrupt(interrupted),), **settings)
    return fit(folder, *args, **settings)


@pytest.mark.parametrize("name", REGULARISERS)
def test_it_changes_what_is_learned_and_resumed_is_bit_equal(
    tmp_path: Path, domain: Domain, plain: Callable[..., Fitted], name: str
) -> None:
    how = ("resnet20", "fine_tune", 2) if name in ON_THE_NETWORK else ("cnn", "gradual_unfreeze", 5)
    undisturbed = fit(tmp_path / "a", domain, chosen(name), *how)
    assert (f"train/{name}" in undisturbed.history[-1]) == (name not in ON_THE_NETWORK)
    assert not equal(undisturbed, plain(*how))
    assert equal(undisturbed, resumed(tmp_path / "b", how[2] - 1, domain, chosen(name), *how))


@pytest.mark.parametrize("averaged", [False, True])
def test_resumed_is_bit_equal_with_all_together(tmp_path: Path, domain: Domain, averaged: bool) -> None:
    how = {"backbone": "resnet20", "how": "lp_ft", "epochs": 3, "averaged": averaged}
    undisturbed = fit(tmp_path / "a", domain, chosen(*REGULARISERS), **how)
    for epoch in range(3):
        assert equal(undisturbed, resumed(tmp_path / f"b{epoch}", epoch, domain, chosen(*REGULARISERS), **how))


def test_averaged_weights_are_those_of_the_regularised_network(tmp_path: Path, domain: Domain) -> None:
    last, averaged = (
        fit(tmp_path / str(averaged), domain, chosen("lwf", "bi_tuning"), averaged=averaged) for averaged in (0, 1)
    )
    assert [row["train/lwf"] for row in last.history] == [row["train/lwf"] for row in averaged.history]
    assert not equal(last, averaged)


@pytest.mark.parametrize("name", [name for name in REGULARISERS if name not in ON_THE_NETWORK])
def test_cached_features_change_nothing(tmp_path: Path, domain: Domain, name: str) -> None:
    cached, through = (fit(tmp_path / str(c), domain, chosen(name), "resnet20", "lp_ft", 2, cached=c) for c in (1, 0))
    for key in cached.last:
        torch.testing.assert_close(cached.last[key], through.last[key], atol=1e-5, rtol=1e-4)


FROM = {r"backbone\.<-1>\..*|head\..*": {"lr_scale": 1}, ".*": None}  # the last layer group on
MOVES_WHAT_IT_FREEZES: dict[str, list[dict[str, Any]]] = {
    "trained": [
        {"name": "all", "until": {"epochs": 1}, "rules": {".*": {"lr_scale": 1}}},
        {"name": "last", "rules": FROM},
    ],
    "recalibrated": [{"name": "last", "recalibrate": True, "rules": FROM}],
    "statistics trained": [
        {"name": "first", "until": {"epochs": 1}, "norm_statistics": "train", "rules": FROM},
        {"name": "last", "rules": FROM},
    ],
}


@pytest.mark.parametrize("phases", MOVES_WHAT_IT_FREEZES.values(), ids=MOVES_WHAT_IT_FREEZES.keys())
def test_what_was_moved_and_is_frozen_is_seen_by_the_starting_network_from_the_images(
    tmp_path: Path, domain: Domain, phases: list[dict[str, Any]]
) -> None:
    """The starting network cannot go on from cached features of layer groups that are not as the stage began."""
    how = Strategy("moves", phases)
    cached, through = (
        fit(tmp_path / str(c), domain, chosen("feature_distillation", "bi_tuning"), "resnet20", how, 2, cached=c)
        for c in (1, 0)
    )
    assert cached.history[-1]["train/feature_distillation"] > 0
    for key in cached.last:
        torch.testing.assert_close(cached.last[key], through.last[key], atol=1e-5, rtol=1e-4)


def mobilenet_v2() -> Backbone:
    return build(load("backbone", "mobilenet_v2") | {"size": 32})


def small_vit() -> Backbone:
    return TimmBackbone("test_vit", size=32)


@pytest.mark.parametrize(
    ("make", "refused"), [(mobilenet_v2, set()), (small_vit, {"delta", "stoch_norm"})], ids=["mobilenet", "vit"]
)
def test_a_mobilenet_and_a_vit_train_with_all_that_accept_them(
    tmp_path: Path, domain: Domain, make: Callable[[], Backbone], refused: set[str]
) -> None:
    torch.manual_seed(0)
    backbone = make()
    net, how = with_linear_head(backbone), strategy("fine_tune")
    accepted = {}
    for name in REGULARISERS:
        one = regulariser(name, **({"groups": r".*\.stem"} if name == "delta" else {}))
        try:
            one.check(net, how.resolve(net, 1))
        except UserError:
            continue
        accepted[name] = one
    assert set(REGULARISERS) - accepted.keys() == refused
    [row] = fit(tmp_path / "a", domain, accepted, backbone, how, 1).history
    for name in accepted.keys() - set(ON_THE_NETWORK):
        assert math.isfinite(row[f"train/{name}"])


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_all_together_in_every_precision(tmp_path: Path, domain: Domain, precision: str) -> None:
    fitted = fit(tmp_path / "a", domain, chosen(*REGULARISERS), "resnet20", epochs=1, precision=precision)
    assert all(torch.isfinite(tensor).all() for tensor in fitted.last.values())


def test_l2_sp_is_nothing_at_the_start_and_leaves_what_is_frozen_out(tmp_path: Path, domain: Domain) -> None:
    own = {"l2_sp": build({"_target_": "graft.regularisers.l2_sp.L2SP", "alpha": 1.0, "beta": 0.0})}
    probed = fit(tmp_path / "a", domain, own, how="linear_probe", epochs=2)
    assert [row["train/l2_sp"] for row in probed.history] == [0.0, 0.0]
    tuned = fit(tmp_path / "b", domain, own, epochs=2)
    assert 0.0 < tuned.history[0]["train/l2_sp"] < tuned.history[1]["train/l2_sp"]


def test_l2_sp_takes_the_place_of_weight_decay() -> None:
    plain = training("fine_tune")
    assert plain.decaying_optimizer.keywords["weight_decay"] == 0.1
    drawn = replace(plain, regularisers={"l2_sp": regulariser("l2_sp")})
    assert drawn.decaying_optimizer.keywords["weight_decay"] == 0.0
    decaying = [{"name": "x", "rules": {".*": {"lr_scale": 1, "weight_decay": 0.1}}}]
    phases = replace(plain.strategy, phases=decaying).resolve(network(), 1)
    with pytest.raises(UserError, match="takes the place of weight decay"):
        regulariser("l2_sp").check(network(), phases)


def test_the_starting_network_is_in_no_checkpoint_and_what_is_learned_is(tmp_path: Path, domain: Domain) -> None:
    fit(tmp_path / "a", domain, chosen("delta", "co_tuning", "lwf", "bi_tuning"), epochs=1)
    state = read_checkpoint(tmp_path / "a" / LAST)["state_dict"]
    beside = {name.removeprefix("regularisation.terms.") for name in state if not name.startswith("network.")}
    own = {name for name in beside if not name.startswith("bi_tuning.")}
    assert own == {f"{name}.source_head.linear.{part}" for name in ("co_tuning", "lwf") for part in ("weight", "bias")}
    assert {name.split(".")[1] for name in beside - own} == {"projector", "key_projector", "backbone", "keys"}


class Look(Callback):
    """Notes what the regularisers have learned when fits begin (by epochs before, negative) and epochs end."""

    def __init__(self) -> None:
        self.states: dict[int, dict[str, Tensor]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(pl_module, -pl_module.stage_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(pl_module, pl_module.stage_epoch + 1)

    def _look(self, module: LightningModule, when: int) -> None:
        self.states[when] = {name: t.clone() for name, t in module.regularisation.state_dict().items()}


@pytest.mark.parametrize("start_from", ["best", "last"])
def test_what_was_learned_goes_back_to_the_best_epoch_with_the_weights(
    tmp_path: Path, domain: Domain, start_from: str
) -> None:
    """The rates grow beyond use, so that the first epoch is the best."""
    look = Look()
    phases = [
        {"name": "a", "rules": {".*": {"lr_scale": 1}}, "until": {"epochs": 2}},
        {"name": "b", "rules": {".*": {"lr_scale": 1}}, "start_from": start_from},
    ]
    fitted = fit(
        tmp_path / "a",
        domain,
        chosen("lwf", "bi_tuning"),
        how=Strategy("x", phases),
        callbacks=(look,),
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.0),
        schedule=lambda step, total: 0.1 if step < total / 3 else 20.0,
    )
    assert fitted.best_epoch == 1
    expected = look.states[1 if start_from == "best" else 2]
    for name, tensor in look.states[-2].items():
        assert torch.equal(tensor.nan_to_num(), expected[name].nan_to_num()), name
    assert not torch.equal(
        look.states[1]["terms.bi_tuning.keys.num_seen"], look.states[2]["terms.bi_tuning.keys.num_seen"]
    )
    name = "terms.lwf.source_head.linear.weight"
    assert not torch.equal(look.states[1][name], look.states[2][name])


@pytest.mark.slow
def test_two_processes_agree(tmp_path: Path) -> None:
    domain = tiny_domain(tmp_path)
    together, how = chosen("lwf", "bi_tuning"), {"strategy": "ddp_spawn", "devices": 2}
    fit(tmp_path / "a", domain, together, epochs=2, callbacks=(SameOnAllRanks(),), **how)
    state = read_checkpoint(tmp_path / "a" / LAST)["state_dict"]
    torch.manual_seed(1)
    assert not torch.equal(state["regularisation.terms.lwf.source_head.linear.weight"], LinearHead(84, 4).linear.weight)


def test_the_source_head_is_trained(tmp_path: Path, domain: Domain) -> None:
    fit(tmp_path / "a", domain, chosen("lwf"), epochs=1)
    checkpoint = read_checkpoint(tmp_path / "a" / LAST)
    name = "regularisation.terms.lwf.source_head.linear.weight"
    torch.manual_seed(1)
    assert not torch.equal(checkpoint["state_dict"][name], LinearHead(84, 4).linear.weight)
    assert name in checkpoint["stage"]["optimizer"]["param_names"]


def test_fisher_information_is_computed_once(tmp_path: Path, domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fit(tmp_path / "a", domain, chosen("ewc"), epochs=1)
    monkeypatch.setattr("graft.regularisers.ewc.fisher_diagonal", None)
    assert equal(first, fit(tmp_path / "b", domain, chosen("ewc"), epochs=1))


REFUSED = [
    *[
        (f"regulariser={name}", "strategy=scratch", "random weights")
        for name in REGULARISERS
        if "source_weights" in regulariser(name).needs
    ],
    *[
        (f"regulariser={name}", "source=none backbone.weights=DEFAULT backbone=resnet18", "source's head")
        for name in REGULARISERS
        if "source_head" in regulariser(name).needs
    ],
    *[
        (f"regulariser={name}", "strategy=linear_probe", "only the head")
        for name in REGULARISERS
        if "trained_features" in regulariser(name).needs
    ],
    ("regulariser=stoch_norm", "", "this network has none"),
    ("regulariser=stoch_norm", "strategy=linear_probe backbone=resnet20", "in train mode"),
    ("regulariser=stoch_norm", "adapter=lora backbone=resnet20", "adapter=lora keeps them as they are"),
    ("regulariser=delta", "adapter=side_tuning", "those of this backbone are no functions one after another"),
    ("regulariser=ewc", "strategy=linear_probe", "trains none of them"),
    ("regulariser=l2_sp", "strategy=linear_probe", "trains none of them"),
    *[
        (f"regulariser={name}", f"strategy=last_stage regulariser.{name}.groups=backbone.stem", "trains none of them")
        for name in ("l2_sp", "delta", "ewc")
    ],
    ("regulariser=l2_sp", "regulariser.l2_sp.groups=stem", "matches no layer group"),
    ("regulariser=l2_sp", "regulariser.l2_sp.alpha=-1", "expected 0 or more"),
    ("regulariser=l2_sp", "regulariser.l2_sp.alhpa=1", "alpha"),
    ("regulariser=bss", "regulariser.bss.num_values=0", "expected 1 or more"),
    ("regulariser=lwf", "regulariser.lwf.temperature=0", "above 0"),
    ("regulariser=delta", "regulariser.delta.num_images=0", "expected 1 or more"),
    ("regulariser=co_tuning", "regulariser.co_tuning.relationship=revers", "did you mean 'reverse'"),
    ("regulariser=co_tuning", "source.val_fraction=0", "set source.val_fraction above 0"),
    ("regulariser=bi_tuning", "head=cosine", "use head=linear"),
    ("regulariser=bi_tuning", "target.augmentation.mixup=1", "set target.augmentation.mixup=0"),
    ("regulariser=bi_tuning", "regulariser.bi_tuning.momentum=2", "from 0 to 1"),
    ("regulariser=bi_tuning", "regulariser.bi_tuning.temperature=0", "above 0"),
    ("regulariser=bi_tuning", "regulariser.bi_tuning.keys_per_class=0", "expected 1 or more"),
    ("regulariser=bi_tuning", "optimizer=lbfgs", "one gradient a step"),
    ("regulariser=sam", "regulariser.sam.rho=0", "above 0"),
    ("regulariser=sam", "optimizer=lbfgs", "one gradient a step"),
    ("regulariser=sam", "precision=16-mixed", "not scaled"),
]


@pytest.mark.parametrize(("choice", "others", "reason"), REFUSED, ids=lambda value: str(value))
def test_what_makes_no_sense_is_refused_with_the_reason(
    loader: ConfigLoader, choice: str, others: str, reason: str
) -> None:
    try:
        errors = validate(compose(loader, [choice, *others.split()]))
    except UserError as error:
        errors = [str(error)]
    assert any(reason in error for error in errors), errors


def test_delta_may_hold_what_is_frozen_behind_what_is_trained() -> None:
    net, phases = network(), [{"name": "stem", "rules": {r"backbone\.stem\..*": {}, ".*": None}}]
    regulariser("delta", groups=r".*\.stage1").check(net, Strategy("stem", phases).resolve(net, 1))


class Steps(Regulariser):
    """Adds nothing, and notes the steps of the optimizer that it is told of."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def begin(self, beginning: Beginning) -> Term:
        return StepsTerm(self.told)


class StepsTerm(Term):
    def __init__(self, told: list[tuple[int, int]]) -> None:
        super().__init__()
        self.told = told

    def forward(self, step: Step) -> Tensor:
        return step.outputs.logits.new_zeros(())

    def after_step(self, network: Network, step: int, num_steps: int) -> None:
        assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)
        self.told.append((step, num_steps))


@pytest.mark.parametrize("how", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 1.0}], ids=str)
@pytest.mark.parametrize("others", [(), ("sam",)])
def test_terms_are_told_of_every_step_of_the_stage(
    tmp_path: Path, domain: Domain, how: dict[str, Any], others: tuple[str, ...]
) -> None:
    steps = Steps()
    fitted = fit(tmp_path / "a", domain, {"steps": steps} | chosen(*others), how="gradual_unfreeze", epochs=5, **how)
    assert steps.told == [(step, fitted.steps) for step in range(1, fitted.steps + 1)]


def test_averages_of_bi_tuning_move_with_steps_and_its_queues_with_batches(domain: Domain) -> None:
    net = network()
    how = Inference(torch.device("cpu"))
    term = regulariser("bi_tuning", momentum=0.75).begin(Beginning(copy.deepcopy(net), domain, None, how, seed=0))
    with torch.no_grad():
        net.head.linear.weight += 1.0
        before = dict(net.backbone.named_parameters())
        for parameter in before.values():
            parameter += 1.0
    x = torch.randn(4, 3, 32, 32)
    features = net.backbone(x)
    step = Step(net, torch.arange(4) % 3, Outputs(net.head(features), features), Trace(features, features, {}), None, x)
    for _ in range(2):
        term(step)
    assert int(term.keys.num_seen.sum()) == 8
    averages = dict(term.backbone.named_buffers())
    for name, parameter in before.items():
        torch.testing.assert_close(averages[name], parameter - 1.0)
    term.after_step(net, 1, 10)
    for name, parameter in before.items():
        torch.testing.assert_close(averages[name], parameter - 0.75)


def test_several_are_chosen_by_name(loader: ConfigLoader) -> None:
    config = compose(loader, ["regulariser=[l2_sp,bss]", "regulariser.bss.weight=0.5"])
    assert validate(config) == []
    assert list(config["regulariser"]) == ["l2_sp", "bss"]
    assert config["regulariser"]["bss"]["weight"] == 0.5


class Views(Regulariser):
    """Adds nothing, and keeps the second views that it is shown."""

    needs = frozenset({"second_view"})

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def begin(self, beginning: Beginning) -> Term:
        return ViewsTerm(self.seen)


class ViewsTerm(Term):
    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, step: Step) -> Tensor:
        assert step.second is not None
        self.seen.append(step.second)
        return step.outputs.logits.new_zeros(())


def test_the_second_view_is_another_and_leaves_the_first_as_it_is(tmp_path: Path) -> None:
    write_arrays(tmp_path / "tiny.npz", num_per_class=6)
    domain = tiny_domain(tmp_path, augmentation=Augmentation(flip=True, crop_padding=4))
    first: list[Tensor] = []

    class Firsts(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            stem = pl_module.network.backbone.layer_groups["stem"]
            stem.register_forward_pre_hook(lambda module, given: first.append(given[0]) if module.training else None)

    views = [Views(), Views()]
    looks = [
        fit(tmp_path / str(i), domain, {"views": one}, epochs=1, callbacks=(Firsts(),)) for i, one in enumerate(views)
    ]
    assert equal(looks[0], fit(tmp_path / "plain", domain, {}, epochs=1))
    assert len(first) == 2 * len(views[0].seen)
    for x, second, again in zip(first, views[0].seen, views[1].seen, strict=False):
        assert x.shape == second.shape
        assert not torch.equal(x, second)
        assert torch.equal(second, again)
