"""Every YAML of `conf` describes itself, composes, and validates once what must be given is given."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conf_plugins import CONF
from hydra.core.config_loader import ConfigLoader
from sounds import write_sound_encoder
from texts import write_encoder

from graft.build.validation import validate
from graft.cli.catalogue import description
from graft.cli.compose import compose, compose_sweep

FILES = sorted(path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml"))
CHOICES = [name.removesuffix(".yaml") for name in FILES if "/" in name and not Path(name).name.startswith("_")]


def is_search(group: str, name: str) -> bool:
    return group == "hparams_search" or (group, name) == ("hydra/sweeper", "optuna")


def overrides_for(choice: str) -> Iterator[list[str]]:
    """Every place of the default experiment in which the choice can stand."""
    group, _, name = choice.rpartition("/")
    if group == "score":  # no part of an experiment; test_scores.py has their contract
        return
    if is_search(group, name):  # of many jobs
        return
    if group == "domain":
        yield [f"source={name}", "strategy=scratch"] if name == "none" else [f"source={name}"]
        if name != "none":
            yield [f"target={name}"]
        return
    with_norms = ["backbone=resnet20"] if group in ("strategy", "regulariser", "adaptation", "after") else []
    with_views = ["target.augmentation.flip=true", "target.augmentation.crop_padding=2"] if name == "tta" else []
    without_labels = ["target.labels_per_class=null"] if group == "adaptation" else []
    yield [f"{group}={name}", *with_norms, *with_views, *without_labels]
    if group in ("strategy", "objective", "optimizer", "scheduler"):
        yield [f"{group}@pretrain.{group}={name}", *with_norms]


PLACES = [words for choice in CHOICES for words in overrides_for(choice)]


@pytest.fixture(autouse=True)
def well_equipped_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


# What a user gives where a file says `???`; a path because nothing is read while a configuration is checked.
GIVEN = {"path": "/somewhere", "weights": "DEFAULT"}
NAMES = {"backbone=torchvision": "resnet18", "backbone=timm": "resnet18"}


def give(node: Any, name: str) -> None:
    """Replace each `???` in a node."""
    for key, value in node.items():
        if isinstance(value, dict):
            give(value, name)
        elif isinstance(value, str) and value.startswith("???"):
            node[key] = name if key == "name" else GIVEN[key]


@pytest.mark.parametrize("words", PLACES, ids=" ".join)
def test_composes_and_validates(words: list[str], loader: ConfigLoader, tmp_path: Path) -> None:
    config = compose(loader, words)
    if words[0] == "backbone=hugging_face":
        config["backbone"]["path"] = str(write_encoder(tmp_path))
    if words[0] == "backbone=hugging_face_audio":
        config["backbone"]["path"] = str(write_sound_encoder(tmp_path))
    for group in ("source", "target", "backbone"):
        give(config[group], NAMES.get(words[0], "given"))
    assert validate(config) == []


@pytest.mark.parametrize("choice", [name for name in CHOICES if name.startswith("hparams_search/")])
def test_searches_compose_and_validate(choice: str, loader: ConfigLoader) -> None:
    group, _, name = choice.partition("/")
    sweep = compose_sweep(loader, [f"{group}={name}"])
    assert len(sweep.configs) > 1
    assert [error for config in sweep.configs for error in validate(config)] == []


@pytest.mark.parametrize("choice", [name for name in CHOICES if name.startswith("hparams_search/")])
def test_searches_state_command_and_what_they_search(choice: str) -> None:
    text = (CONF / f"{choice}.yaml").read_text()
    assert f"# Command: graft -m hparams_search={Path(choice).name}" in text
    assert "# Searches: " in text


@pytest.mark.parametrize("name", FILES)
def test_describes_itself_in_its_first_comment(name: str) -> None:
    lines = [line for line in (CONF / name).read_text().splitlines() if not line.startswith("# @")]
    assert lines[0].startswith("# ")
    assert len(description(CONF / name)) > 8


@pytest.mark.parametrize(
    "choice", [name for name in CHOICES if name.startswith(("strategy/", "domain/", "experiment/"))]
)
def test_says_its_own_name(choice: str) -> None:
    name = yaml.safe_load((CONF / f"{choice}.yaml").read_text())["name"]
    assert name == Path(choice).name or name.startswith("${path_name:")


@pytest.mark.parametrize("choice", [name for name in CHOICES if name.startswith("experiment/")])
def test_experiments_state_command_and_hardware(choice: str) -> None:
    text = (CONF / f"{choice}.yaml").read_text()
    for word in ("# Command: graft experiment=", "# Expected: ", "# Hardware: ", "seed"):
        assert word in text
