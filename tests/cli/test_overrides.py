import re

import pytest
from hydra.core.config_loader import ConfigLoader

from graft.build.validation import validate
from graft.cli.compose import compose, compose_sweep
from graft.cli.overrides import requote
from graft.errors import UserError


@pytest.mark.parametrize(
    ("typed", "given_to_hydra"),
    [
        ("precision=32", "precision='32'"),
        ("precision=32,bf16-mixed", "precision='32',bf16-mixed"),
        ("precision=bf16-mixed,32", "precision=bf16-mixed,'32'"),
        ("precision='32'", "precision='32'"),
        ("backbone=resnet20", "backbone=resnet20"),
        ("seed=0,1", "seed=0,1"),
        ("target.path=~/flowers", "target.path='~/flowers'"),
        ("target.path=/a(b)/ü", "target.path='/a(b)/ü'"),
        ("backbone.weights=https://x.org/a?b=1", "backbone.weights='https://x.org/a?b=1'"),
        ("target.path=/plain/path", "target.path=/plain/path"),
        ("nonsense", "nonsense"),
    ],
)
def test_what_hydra_would_stumble_over_is_quoted(loader: ConfigLoader, typed: str, given_to_hydra: str) -> None:
    assert requote(loader, [typed]) == [given_to_hydra]


def test_home_folder_reaches_the_configuration(loader: ConfigLoader) -> None:
    assert compose(loader, ["target=arrays", "target.path=~/my data.npz"])["target"]["path"] == "~/my data.npz"


def refused(loader: ConfigLoader, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        compose(loader, overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("strategy=gradual_unfreez", "strategy=gradual_unfreez: no such strategy; did you mean 'gradual_unfreeze'?"),
        ("trainer=gppu", "trainer=gppu: no such trainer; did you mean 'gpu'?"),
        ("trainr=cpu", "trainr: no such key; did you mean 'trainer'?"),
        ("sead=1", "sead: no such key; did you mean 'seed'?"),
        ("trainer.max_epoch=3", "trainer.max_epoch: no such key; did you mean 'trainer.max_epochs'?"),
        ("target.mixup=0.2", "target.mixup: no such key; did you mean 'target.augmentation.mixup'?"),
        ("optimiser.lr=0.1", "optimiser.lr: no such key; did you mean 'optimizer.lr'?"),
        ("seed.x=1", "seed.x: no such key; seed has none"),
        ("+seed=1", "+seed=1: it is there already; leave the + out"),
        ("seed=0,1", "seed=0,1: several values; add -m to run each, or write seed=[...] for a list"),
        ("pln", "pln: no such command; did you mean 'plan'?"),
        ("head@pretrain.head=mlp", "head@pretrain.head: no such group here; expected one of: head"),
        ("baselines=[scrach]", "baselines: no strategy is called 'scrach'; did you mean 'scratch'?"),
        ("name=${sede}", "name: Interpolation key 'sede' not found"),
    ],
)  # fmt: skip
def test_each_error_is_one_line_with_the_nearest_name(loader: ConfigLoader, override: str, expected: str) -> None:
    assert refused(loader, override) == [expected]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("source.reader.pth=a", "source.reader.pth: no such key; did you mean 'source.reader.path'?"),
        ("source.reader.zz=a", "source.reader.zz: no such key; source.reader has path, "),
        ("+source.reader.path=a", "+source.reader.path=a: it is there already; leave the + out"),
    ],
)
def test_keys_beside_one_that_stands_for_a_value_yet_to_be_given(
    loader: ConfigLoader, override: str, expected: str
) -> None:
    [line] = refused(loader, "experiment=reviews", override)  # source.reader.path is ${target.path}, which is missing
    assert line.startswith(expected)


def test_without_a_near_name_the_choices_are_listed(loader: ConfigLoader) -> None:
    [line] = refused(loader, "optimizer=zzz")
    assert line == "optimizer=zzz: no such optimizer; expected one of: adamw, lbfgs, sgd"


@pytest.mark.parametrize("setting", ["flip=true", "crop_padding=2", "brightness=0.1", "cutmix=1"])
def test_what_augments_images_is_refused_for_sounds_with_the_reason(loader: ConfigLoader, setting: str) -> None:
    [line] = refused(loader, "target=audio_folder", "target.path=songs", f"target.augmentation.{setting}")
    assert line.startswith(
        f"target.augmentation.{setting.partition('=')[0]}: the axes of a sound's spectrogram are time"
    )
    assert line.endswith(
        "target.augmentation has shift, noise, frequency_masks, frequency_width, time_masks, time_width, mixup"
    )


def test_keys_of_a_part_that_was_switched_off_do_not_make_it(loader: ConfigLoader) -> None:
    config = compose(loader, ["debug=overfit", "+target.augmentation.brightness=0.2"])
    assert validate(config) == ["target.augmentation={'brightness': 0.2}; expected null, or a mapping with a _target_"]


def test_a_group_cannot_be_null(loader: ConfigLoader) -> None:
    [line] = refused(loader, "head=null")
    assert line.startswith("head=None: no such head")


def test_all_errors_at_once(loader: ConfigLoader) -> None:
    lines = refused(loader, "trainer=gppu", "seed=1", "sead=2", "foo", "optimizer.lrr=1")
    assert lines[0] == "foo: expected key=value"
    assert [line.partition(":")[0] for line in lines] == ["foo", "trainer=gppu", "sead", "optimizer.lrr"]


def test_keys_are_those_of_the_chosen_groups(loader: ConfigLoader) -> None:
    assert compose(loader, ["head=mlp", "head.num_hidden=8"])["head"]["num_hidden"] == 8
    assert refused(loader, "head=linear", "head.num_hidden=8") == ["head.num_hidden: no such key; head has none"]


def test_only_some_jobs_of_a_sweep_are_wrong(loader: ConfigLoader) -> None:
    with pytest.raises(UserError) as caught:
        compose_sweep(loader, ["head=linear,mlp", "head.num_hidden=8", "seed=0"])
    assert str(caught.value) == "head.num_hidden: no such key; head has none (with head=linear)"


def test_a_wrong_choice_for_the_source_stage(loader: ConfigLoader) -> None:
    [line] = refused(loader, "strategy@pretrain.strategy=scrach")
    assert line == "strategy@pretrain.strategy=scrach: no such strategy; did you mean 'scratch'?"
    [line] = refused(loader, "strategy@pretrian.strategy=scratch")
    assert line.endswith("did you mean 'strategy@pretrain.strategy'?")


def test_a_wrong_choice_in_a_sweep(loader: ConfigLoader) -> None:
    with pytest.raises(UserError) as caught:
        compose_sweep(loader, ["strategy=scratch,lp_tf"])
    assert str(caught.value) == "strategy=lp_tf: no such strategy; did you mean 'lp_ft'? (with strategy=lp_tf)"


def test_a_key_that_only_the_swept_choices_have(loader: ConfigLoader) -> None:
    sweep = compose_sweep(loader, ["target=cifar10,stl10", "target.download=true", "baselines=[]"])
    assert [config["target"]["download"] for config in sweep.configs] == [True, True]
    assert sweep.configs[0]["baselines"] == {}


@pytest.mark.parametrize("override", ["+=", "=", "+=1", "~=", "+@here=1"])
def test_a_value_without_a_name_is_refused(loader: ConfigLoader, override: str) -> None:
    with pytest.raises(UserError, match="no name in front of the value; expected name=value"):
        compose(loader, [override])


@pytest.mark.parametrize("override", ["~adaptation=[]", "~strategy@pretrain.strategy=[scratch]"])
def test_one_choice_is_left_out_and_no_list(loader: ConfigLoader, override: str) -> None:
    expected = f"{override}: leaves out one choice; write {override.partition('=')[0]} for whatever is chosen"
    with pytest.raises(UserError, match=re.escape(expected)):
        compose(loader, [override])
