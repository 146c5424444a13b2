"""Every regulariser of `conf` trains, resumes bit-equal, shows its term, and is refused where it makes no sense."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import network, stage, tiny_domain, training
from conf_plugins import CONF, build, names
from hydra.core.config_loader import ConfigLoader
from pytorch_lightning import Callback, LightningModule, Trainer

from graft.build.validation import validate
from graft.callbacks.checkpoints import LAST, read_checkpoint
from graft.cli.compose import compose
from graft.data.domain import Domain
from graft.errors import UserError
from graft.features import FeatureCache
from graft.models.heads.linear import LinearHead
from graft.records.store import Store
from graft.regularisers.base import Origin, Regulariser
from graft.stage import Fitted, fit_stage

REGULARISERS = [name for name in names("regulariser") if name != "none"]
ON_THE_NETWORK = ("stoch_norm", "sam")  # they add nothing to the loss


def regulariser(name: str) -> Regulariser:
    [(key, node)] = yaml.safe_load((CONF / "regulariser" / f"{name}.yaml").read_text()).items()
    assert key == name
    return build(node)


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return tiny_domain(tmp_path)


class Interrupt(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if pl_module.stage_epoch == self.epoch:
            raise KeyboardInterrupt


def fit(
    folder: Path,
    domain: Domain,
    regularisers: dict[str, Regulariser],
    backbone: str = "cnn",
    how: str = "fine_tune",
    epochs: int = 3,
    cached: bool = True,
    callbacks: tuple[Callback, ...] = (),
    **settings: Any,
) -> Fitted:
    store = Store(folder.parent / "store")
    trained = replace(training(how, epochs, callbacks=callbacks, **settings), regularisers=regularisers)
    net = network(backbone)
    torch.manual_seed(1)
    origin = Origin(LinearHead(net.backbone.num_features, 4), domain, store)
    whole = stage(folder, domain, trained, cache=FeatureCache(store, 2**30) if cached else None)
    return fit_stage(replace(whole, origin=origin), net)


def equal(a: Fitted, b: Fitted) -> bool:
    return all(torch.equal(a.last[name], b.last[name]) for name in a.last)


@pytest.mark.parametrize("name", REGULARISERS)
@pytest.mark.parametrize(("backbone", "how", "epochs"), [("cnn", "gradual_unfreeze", 5), ("resnet20", "fine_tune", 2)])
def test_resumed_is_bit_equal(tmp_path: Path, domain: Domain, name: str, backbone: str, how: str, epochs: int) -> None:
    if name == "stoch_norm" and backbone == "cnn":
        net = network(backbone)
        with pytest.raises(UserError, match="this network has none"):
            regulariser(name).check(net, training(how, epochs).strategy.resolve(net, epochs))
        return
    own = {name: regulariser(name)}
    undisturbed = fit(tmp_path / "a", domain, own, backbone, how, epochs)
    for epoch in range(1, epochs):
        folder = tmp_path / f"b{epoch}"
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(folder, domain, own, backbone, how, epochs, callbacks=(Interrupt(epoch),))
        assert equal(undisturbed, fit(folder, domain, own, backbone, how, epochs))
    assert (f"train/{name}" in undisturbed.history[-1]) == (name not in ON_THE_NETWORK)
    plain = fit(tmp_path / "c", domain, {}, backbone, how, epochs)
    assert not equal(undisturbed, plain)


@pytest.mark.parametrize("name", [name for name in REGULARISERS if name not in ON_THE_NETWORK])
@pytest.mark.parametrize("how", ["last_stage", "lp_ft"])
def test_cached_features_change_nothing(tmp_path: Path, domain: Domain, name: str, how: str) -> None:
    own = {name: regulariser(name)}
    cached, plain = (fit(tmp_path / str(c), domain, own, "resnet20", how, 2, cached=c) for c in (True, False))
    for key in cached.last:
        torch.testing.assert_close(cached.last[key], plain.last[key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_all_together_in_every_precision(tmp_path: Path, domain: Domain, precision: str) -> None:
    together = {name: regulariser(name) for name in REGULARISERS}
    fitted = fit(tmp_path / "a", domain, together, "resnet20", epochs=1, precision=precision)
    assert all(torch.isfinite(tensor).all() for tensor in fitted.last.values())


def test_what_was_frozen_again_after_training_is_seen_by_the_starting_network_from_the_images(
    tmp_path: Path, domain: Domain
) -> None:
    own = {"feature_distillation": regulariser("feature_distillation")}
    thaw_and_freeze = replace(
        training("fine_tune", 2).strategy,
        phases=[
            {"name": "all", "until": {"epochs": 1}, "rules": {".*": {"lr_scale": 1}}},
            {"name": "last", "rules": {r"backbone\.<-1>\..*|head\..*": {"lr_scale": 1}, ".*": None}},
        ],
    )

    def run(cached: bool) -> Fitted:
        store = Store(tmp_path / "store")
        how = replace(training("fine_tune", 2), strategy=thaw_and_freeze, regularisers=own)
        return fit_stage(
            stage(tmp_path / str(cached), domain, how, cache=FeatureCache(store, 2**30) if cached else None), network()
        )

    assert equal(run(True), run(False))


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


def test_the_starting_network_is_in_no_checkpoint_and_never_moves(tmp_path: Path, domain: Domain) -> None:
    own = {"delta": regulariser("delta"), "lwf": regulariser("lwf")}
    fit(tmp_path / "a", domain, own, "resnet20", epochs=1)
    state = read_checkpoint(tmp_path / "a" / LAST)["state_dict"]
    beside = {name for name in state if not name.startswith("network.")}
    heads = {f"regularisation.terms.lwf.source_head.linear.{part}" for part in ("weight", "bias")}
    assert beside == heads


def test_the_source_head_is_trained(tmp_path: Path, domain: Domain) -> None:
    fit(tmp_path / "a", domain, {"lwf": regulariser("lwf")}, epochs=1)
    checkpoint = read_checkpoint(tmp_path / "a" / LAST)
    name = "regularisation.terms.lwf.source_head.linear.weight"
    torch.manual_seed(1)
    assert not torch.equal(checkpoint["state_dict"][name], LinearHead(84, 4).linear.weight)
    assert name in checkpoint["stage"]["optimizer"]["param_names"]


def test_fisher_information_is_computed_once(tmp_path: Path, domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fit(tmp_path / "a", domain, {"ewc": regulariser("ewc")}, epochs=1)
    monkeypatch.setattr("graft.regularisers.ewc.fisher_diagonal", None)
    assert equal(first, fit(tmp_path / "b", domain, {"ewc": regulariser("ewc")}, epochs=1))


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
    ("regulariser=l2_sp", "regulariser.l2_sp.groups=stem", "matches no layer group"),
    ("regulariser=l2_sp", "regulariser.l2_sp.alpha=-1", "expected 0 or more"),
    ("regulariser=l2_sp", "regulariser.l2_sp.alhpa=1", "alpha"),
    ("regulariser=bss", "regulariser.bss.num_values=0", "expected 1 or more"),
    ("regulariser=lwf", "regulariser.lwf.temperature=0", "above 0"),
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


def test_several_are_chosen_by_name(loader: ConfigLoader) -> None:
    config = compose(loader, ["regulariser=[l2_sp,bss]", "regulariser.bss.weight=0.5"])
    assert validate(config) == []
    assert list(config["regulariser"]) == ["l2_sp", "bss"]
    assert config["regulariser"]["bss"]["weight"] == 0.5


PLUG_IN = """
from graft.regularisers.base import Regulariser, Term


class Small(Regulariser):
    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def begin(self, beginning):
        return SmallTerm(self.weight)


class SmallTerm(Term):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, step):
        return self.weight * step.outputs.logits.square().mean()
"""


def test_adding_one_is_one_file_and_one_yaml(
    tmp_path: Path, domain: Domain, monkeypatch: pytest.MonkeyPatch, loader: ConfigLoader
) -> None:
    import graft.regularisers

    (tmp_path / "small.py").write_text(PLUG_IN)
    monkeypatch.setattr(graft.regularisers, "__path__", [*graft.regularisers.__path__, str(tmp_path)])
    node = yaml.safe_load("{small: {_target_: graft.regularisers.small.Small, weight: 0.5}}")
    config = compose(loader, [])
    config["regulariser"] = node
    assert validate(config) == []
    fitted = fit(tmp_path / "a", domain, {"small": build(node["small"])}, epochs=1)
    assert fitted.history[0]["train/small"] > 0
