"""Configurations that share files are the same as those that Hydra composes one by one."""

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from graft.cli.compose import hydra_application
from graft.cli.loader import RememberingLoader
from graft.cli.source import PRIMARY, search_path

JOBS = [
    [],
    ["seed=1"],
    ["seed=2", "strategy=lp_ft", "target.labels_per_class=3"],
    ["strategy=lp_ft", "target=image_folder", "target.path=x", "+trainer.max_steps=5"],
    ["~pretrain.seed", "baselines=[scratch,lp_ft]", "strategy@pretrain.strategy=linear_probe"],
    ["hydra.sweep.dir=a", "hydra.mode=MULTIRUN", "hydra.job.name=other", "optimizer.lr=0.5", "seed=3"],
    ["experiment=glyphs_to_digits", "trainer.max_epochs=4", "hydra/launcher=basic"],
]


@pytest.fixture(scope="module")
def plain() -> Iterator[ConfigLoader]:
    with hydra_application():
        yield ConfigLoaderImpl(search_path())


@pytest.fixture(scope="module")
def remembering(plain: ConfigLoader) -> RememberingLoader:
    return RememberingLoader(search_path())


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_the_same_as_hydra(job: list[str], again: bool, plain: ConfigLoader, remembering: RememberingLoader) -> None:
    expected = plain.load_configuration(PRIMARY, job, RunMode.RUN)
    found = remembering.load_configuration(PRIMARY, job, RunMode.RUN)
    assert OmegaConf.to_container(found, resolve=False) == OmegaConf.to_container(expected, resolve=False)
    assert OmegaConf.is_struct(found) == OmegaConf.is_struct(expected) is True


def test_a_copy_each_time(remembering: RememberingLoader) -> None:
    first = remembering.load_configuration(PRIMARY, ["seed=1"], RunMode.RUN)
    first.seed = 7
    assert remembering.load_configuration(PRIMARY, ["seed=1"], RunMode.RUN).seed == 1


def test_files_are_merged_once_for_all_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    merges = []
    merge = ConfigLoaderImpl._compose_config_from_defaults_list

    def counted(*given: Any, **named: Any) -> Any:
        merges.append(named)
        return merge(*given, **named)

    monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", counted)
    loader = RememberingLoader(search_path())
    loader._composed = {}  # tests share what they composed
    for seed in range(4):
        loader.load_configuration(PRIMARY, [f"seed={seed}", "hydra.sweep.dir=x"], RunMode.RUN)
    assert len(merges) == 1


@pytest.mark.parametrize("job", [["sead=1"], ["strategy=lp_tf"], ["seed=0,1"], ["~sead"], ["+seed=1"], ["seed"]])
def test_the_same_errors(job: list[str], plain: ConfigLoader, remembering: RememberingLoader) -> None:
    with pytest.raises(HydraException) as expected:
        plain.load_configuration(PRIMARY, job, RunMode.RUN)
    with pytest.raises(HydraException) as found:
        remembering.load_configuration(PRIMARY, job, RunMode.RUN)
    assert (type(found.value), str(found.value)) == (type(expected.value), str(expected.value))


def test_options_are_those_of_hydra(plain: ConfigLoader, remembering: RememberingLoader) -> None:
    for _ in range(2):
        assert remembering.get_group_options("strategy") == plain.get_group_options("strategy")


def test_can_be_sent_to_another_process(remembering: RememberingLoader) -> None:
    sent = pickle.loads(pickle.dumps(remembering))
    assert sent.load_configuration(PRIMARY, ["seed=5"], RunMode.RUN).seed == 5


def test_plain_configurations_are_resolved_once(remembering: RememberingLoader) -> None:
    answers = iter([{"lr": [1]}, {"lr": [2]}])

    def resolve() -> dict[str, Any]:
        return next(answers)

    first = remembering.plain(["optimizer.lr=1"], resolve)
    first["lr"].append("changed")
    assert remembering.plain(["optimizer.lr=1"], resolve) == {"lr": [1]}
    assert remembering.plain(["optimizer.lr=2"], resolve) == {"lr": [2]}


def test_what_cannot_be_resolved_is_not_remembered(remembering: RememberingLoader) -> None:
    def fail() -> dict[str, Any]:
        raise KeyError

    with pytest.raises(KeyError):
        remembering.plain(["seed=11"], fail)
    assert remembering.plain(["seed=11"], lambda: {"seed": 11}) == {"seed": 11}
