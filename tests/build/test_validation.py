"""Each thing that can be wrong with a configuration is found before anything is built, and all at once."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from graft.build.validation import validate

Composed = Callable[..., dict[str, Any]]


def test_the_default_is_sound(composed: Composed) -> None:
    assert validate(composed()) == []


def test_rates_may_be_left_open(composed: Composed) -> None:
    assert validate(composed("optimizer.lr=auto", "pretrain.optimizer.lr=auto", "strategy=layer_decay")) == []


ADAPTS = ("adaptation=mcc", "source.characters=digits", "target.labels_per_class=null")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["+trainer.max_epoch=3"], "trainer.max_epoch: no such key; did you mean 'trainer.max_epochs'?"),
        (["trainer.max_epochs=abc"], "trainer.max_epochs='abc'; expected a whole number or null"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0; expected 1 or more"),
        (["pretrain.max_epochs=0"], "pretrain.max_epochs=0; expected 1 or more"),
        (["+trainer.logger=false"], "trainer.logger: cannot be set; graft passes it itself"),
        (["+seeds=3"], "seeds: no such key; did you mean 'seed'?"),
        (["+pretrain.max_epoch=3"], "pretrain.max_epoch: no such key; did you mean 'max_epochs'?"),
        (["+paths.date=3"], "paths.date: no such key; did you mean 'data'?"),
        (["selection=best_val"], "selection='best_val'; expected a mapping; write selection.rule=best_val"),
        (["selection.rule=best_vall"], "selection.rule=best_vall: there is no such rule; did you mean 'best_val'?"),
        (["selection.rule=density"], "selection.rule=density: it is for adaptation, and there is none; use selection."),
        (["selection.rule=oracle"], "selection.rule=oracle: it looks at the labels of the test split"),
        (["selection.oracle=true"], "selection.oracle=true: it is for adaptation, and there is none"),
        (["selection.images=1"], "selection.images=1; expected 0 (no label-free rules), or 2 or more"),
        (["selection.every=0"], "selection.every=0; expected 1 or more"),
        (["+selection.evry=2"], "selection.evry: no such key; did you mean 'every'?"),
        ([*ADAPTS, "selection.rule=dev", "selection.images=0"], "selection.rule=dev: selection.images=0 scores no "),
        ([*ADAPTS, "selection.rule=dev", "source.val_fraction=0"], "source.val_fraction=0: selection.rule=dev needs"),
        (["optimizer=lbfgs", "optimizer.lr=auto"], "optimizer.lr=auto: lbfgs searches the length of each step itself"),
        (["optimizer@pretrain.optimizer=lbfgs", "pretrain.optimizer.lr=auto"], "pretrain.optimizer.lr=auto: lbfgs se"),
        (["optimizer.lr=automatic"], "optimizer.lr='automatic'; expected a number"),
        (["optimizer.weight_decay=auto"], "optimizer.weight_decay='auto'; expected a number"),
        (["name=a/b"], "name='a/b'; expected the name of a folder"),
        (["backbone.weights=3"], "backbone.weights=3; expected a text"),
        (["backbone.reinitialise=head"], "backbone.reinitialise='head'; expected a list of texts"),
        (["+backbone.wieghts=x"], "backbone.wieghts: no such key; did you mean 'backbone.weights'?"),
        (["backbone=mobilenet_v2"], "backbone.weights: must be given; write backbone.weights=..."),
        (["target=image_folder"], "target.path: must be given; write target.path=..."),
        (["target=arrays", "target.path=x", "+target.pth=y"], "target.pth: no such key; did you mean 'target.path'?"),
        (["+target.flip=true"], "target.flip=True and target.augmentation.flip=False; set only one"),
        (["target=none"], "target=none: there must be one"),
        (["target.labels_per_class=1.5"], "target.labels_per_class=1.5; expected a whole number or null"),
        (["target.fraction=0.5"], "target: labels_per_class=10 and fraction=0.5: give one of the two"),
        (["objective.label_smoothing=2"], "objective: label_smoothing=2; expected a number from 0 to below 1"),
        (["backbone.size=4"], "backbone.size=4: the cnn needs at least 16 pixels"),
        (["precision=16-mixed", "trainer=cpu"], "precision=16-mixed: not on a CPU; use precision=bf16-mixed or "),
        (["precision.value=half"], "precision.value='half'; expected 'auto' or "),
        (["source=none"], "source=none: there is nothing to pretrain on; choose a source, strategy=scratch, or "),
        (["source=none", "strategy=scratch", "mapping=alignment"], "source=none: mapping=alignment brings the "),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/acc"],
            "callbacks.early_stopping.monitor=val/acc: there is no such metric; did you mean 'val/accuracy'?",
        ),
        (["callbacks=early_stopping", "target.val_fraction=0"], "target.val_fraction=0: callbacks.early_stopping."),
        (["selection.rule=best_val", "target.val_fraction=0"], "target.val_fraction=0: selection.rule=best_val needs "),
        (
            ["strategy=gradual_unfreeze", "trainer.max_epochs=2"],
            "strategy 'gradual_unfreeze': its 5 phases need at least 5 epochs; max_epochs is 2",
        ),
        (
            ["strategy@pretrain.strategy=lp_ft", "pretrain.max_epochs=1"],
            "strategy 'lp_ft': its 2 phases need at least 2 epochs; max_epochs is 1",
        ),
        (["baselines=[gradual_unfreeze]", "trainer.max_epochs=4"], "strategy 'gradual_unfreeze': its 5 phases need"),
        (["features.cache_limit_gib=-1"], "features.cache_limit_gib=-1; expected 0 (keep none) or more"),
        (["analysis.cka_images=3"], "analysis.cka_images=3; expected 0 (no CKA), or 4 or more"),
        (["features.augmented_views=-1"], "features.augmented_views=-1; expected 0 (random views) or more"),
        (
            ["features.augmented_views=2", "features.cache_limit_gib=0"],
            "features.augmented_views=2: these are kept, but features.cache_limit_gib=0 keeps none",
        ),
        (
            ["features.augmented_views=2", "target.augmentation.mixup=0.2"],
            "features.augmented_views=2: a fixed view is one sample's own; set target.augmentation.mixup=0",
        ),
        (["backbone=timm", "backbone.name=resnet10x", "backbone.weights=x"], "backbone.name=resnet10x"),
        (["adapter=lora", "adapter.rank=0"], "adapter.rank=0: adapter=lora expects 1 or more"),
        (["adapter=ia3", "+adapter.rank=2"], "adapter.rank: no such key"),
        (["adapter=lora", "adapter.targets.kinds=[linaer]"], "adapter.targets.kinds=['linaer']; expected a list"),
        (
            ["adapter=lora", "adapter.targets.groups=[stage9]"],
            "adapter.targets.groups: the backbone has no layer group 'stage9'",
        ),
        (["adapter=vera", "backbone=resnet20"], "adapter=vera: no layer of resnet20 can take it: "),
        (["adapter=lora", "strategy=scratch"], "adapter=lora: strategy=scratch starts from random weights"),
        (
            ["adapter=lora", "strategy=linear_probe"],
            "strategy 'linear_probe': it trains nothing that adapter=lora brings (in stem, stage1, stage2, stage3)",
        ),
        (["adapter=vera", "strategy=surgical"], "strategy 'surgical': it trains nothing that adapter=vera brings (in"),
        (["adapter=lora", "after=wise_ft"], "after=wise_ft: it averages the backbone's own weights, and adapter=lora"),
        (["adapter=adalora", "optimizer=lbfgs"], "adapter=adalora: it needs one gradient a step"),
        (["adapter=adalora", "adapter.target_rank=12"], "adapter.initial_rank=12: adapter=adalora expects more than"),
        (["adapter=dora", "memory_format=auto"], "adapter=dora: memory_format=auto: not with it; use memory_format="),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_refused(overrides: list[str], expected: str, composed: Composed) -> None:
    found = validate(composed(*overrides))
    assert [error for error in found if error.startswith(expected)], found
    assert len(found) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["+trainer.gradient_clip_algorithm=norm"],
        ["trainer.gradient_clip_val=1"],
        ["source=none", "strategy=scratch", "baselines=[]"],
        ["source=none", "backbone.weights=somewhere/run"],
        ["strategy@pretrain.strategy=linear_probe"],
        ["pretrain.max_epochs=1", "strategy@pretrain.strategy=lp_ft", "strategy=scratch"],
        ["target.reader._target_=graft.data.readers.digits.Digits"],
        ["name=mine"],
        ["baselines=[]"],
        ["head=ridge", "mapping=alignment"],
        ["backbone=swin_t", "backbone.weights=DEFAULT"],
        ["adapter=lora", "adapter.targets.groups=[stem,-1]", "baselines=[scratch,linear_probe]"],
        ["adapter=vera", "strategy=surgical_auto"],
        ["adapter=ia3", "backbone=vit_b_16", "backbone.weights=DEFAULT"],
    ],
    ids=" ".join,
)
def test_accepted(overrides: list[str], composed: Composed) -> None:
    assert validate(composed(*overrides)) == []


def test_all_errors_at_once(composed: Composed) -> None:
    config = composed("+trainer.max_epoch=3", "optimizer.lr=fast", "+head.foo=1", "seed=x", "target=image_folder")
    found = {error.partition(":")[0].partition("=")[0] for error in validate(config)}
    assert found == {"trainer.max_epoch", "optimizer.lr", "head.foo", "seed", "pretrain.seed", "target.path"}
    config = composed("trainer=cpu", "precision=16-mixed", "source=none", "name=.x", "scheduler.warmup_fraction=3")
    assert [error.partition(":")[0].partition("=")[0] for error in validate(config)] == [
        "source",
        "name",
        "precision",
        "scheduler",
    ]
    config = composed("trainer.max_epochs=abc", "selection=best", "name=.x", "source=none", "target.fraction=0.5")
    assert [error.partition(":")[0].partition("=")[0] for error in validate(config)] == [
        "trainer.max_epochs",
        "selection",
        "source",
        "name",
        "target",
    ]
    config = composed("trainer=cpu", "precision=16-mixed", "strategy=gradual_unfreeze", "trainer.max_epochs=2")
    assert [error.partition(":")[0] for error in validate(config)] == [
        "precision=16-mixed",
        "strategy 'gradual_unfreeze'",
    ]


@pytest.mark.parametrize(
    "path", [["head"], ["trainer"], ["pretrain"], ["pretrain", "optimizer"], ["seed"], ["paths", "store"]]
)
def test_a_missing_part_is_named(path: list[str], composed: Composed) -> None:
    config = composed()
    node: dict[str, Any] = config
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    assert f"{'.'.join(path)}: is missing" in validate(config)


@pytest.mark.parametrize("value", [None, 3, "linear", {"scale": 1}])
def test_a_part_without_a_target(value: Any, composed: Composed) -> None:
    assert "head: expected a mapping with a _target_" in validate(composed() | {"head": value})


def test_a_foreign_target_is_never_imported(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(name: str) -> Any:
        raise AssertionError(name)

    config = composed()
    config["callbacks"] = {"bad": {"_target_": "antigravity.open"}}
    original = __import__("importlib").import_module
    monkeypatch.setattr(
        "graft.build.targets.import_module", lambda name: forbidden(name) if name == "antigravity" else original(name)
    )
    [error] = validate(config)
    assert error.startswith("callbacks.bad._target_='antigravity.open'; expected a name in graft")


def test_accelerators_that_are_not_here(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert validate(composed("trainer=gpu"))[0].startswith("trainer.accelerator=gpu: torch finds no GPU here")
    assert validate(composed("trainer=mps"))[0].startswith("trainer.accelerator=mps: torch finds no such GPU here")
    assert validate(composed("trainer=auto", "precision=16-mixed"))[0].startswith("precision=16-mixed: not on a CPU")


def test_accelerators_that_are_here(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert validate(composed("trainer=gpu", "precision=16-mixed")) == []
    assert validate(composed("trainer=ddp")) == []
    clipped = ("trainer=gpu", "precision=16-mixed", "trainer.gradient_clip_val=1")
    assert validate(composed(*clipped, "optimizer.fused=false")) == []
    assert validate(composed(*clipped))[0].endswith("use optimizer.fused=false")
    assert validate(composed("trainer=gpu", "trainer.devices=3")) == ["trainer.devices=3: this machine has 2"]


def test_an_adapter_that_looks_at_gradients_needs_them_unscaled(composed: Composed) -> None:
    found = validate(composed("adapter=adalora", "precision=16-mixed"))
    assert any(error.startswith("adapter=adalora: it needs gradients of a loss that is not scaled") for error in found)


def test_an_adapter_whose_package_is_missing(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    config = composed("adapter=oft", "adapter.block_size=9")
    assert validate(config) == ["adapter=oft: peft is not installed; pip install 'graft[peft]'"]


@pytest.mark.parametrize("strategy", ["fsdp_cpu_offload", "deepspeed_stage_2"])
def test_other_strategies_that_split_weights_are_refused(composed: Composed, strategy: str) -> None:
    [error] = validate(composed("trainer=ddp_cpu", f"trainer.strategy={strategy}"))
    assert error.startswith(f"trainer.strategy={strategy}: it keeps a part of each weight")


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("adaptation=mcc", "adaptation=mcc"),
        ("regulariser=l2_sp", "regulariser=l2_sp"),
        ("adapter=adalora", "adapter=adalora"),
        ("callbacks=ema", "callbacks=ema"),
        ("callbacks=swa", "callbacks=swa"),
        ("optimizer=lbfgs", "optimizer=lbfgs"),
        ("memory_format=channels_last", "torch splits no others than contiguous ones"),
    ],
)
def test_what_looks_at_all_weights_does_not_go_with_their_shares(composed: Composed, word: str, part: str) -> None:
    assert validate(composed("trainer=fsdp_cpu")) == []
    errors = validate(composed("trainer=fsdp_cpu", word))
    assert any(part in error and error.startswith("trainer.strategy=fsdp: ") for error in errors), errors


def test_partial_is_true_or_false_and_only_where_arguments_follow(composed: Composed) -> None:
    assert validate(composed("logger.tensorboard._partial_=")) == [
        "logger.tensorboard._partial_=''; expected true or false"
    ]
    assert validate(composed("logger.tensorboard._partial_=false")) == []
    [error] = validate(composed("+objective._partial_=true"))
    assert error == "objective._partial_=true: graft passes it no further arguments; leave it out"
