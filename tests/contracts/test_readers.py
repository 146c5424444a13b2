"""What every reader and every YAML of conf/domain must hold to; found by walking `conf` and `src`."""

import inspect
import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import conf_plugins
import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from sounds import tone, write_wav
from texts import write_reviews, write_text_folder

import graft.data.readers
from graft.cli.compose import register_resolvers
from graft.data.domain import Domain
from graft.data.preprocessing import Inputs, Preprocessing
from graft.data.readers.base import RawDataset
from graft.data.texts import TextPreprocessing
from graft.data.tokenizing import HashedNgrams
from graft.errors import UserError

CONF = conf_plugins.CONF / "domain"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml") if not path.stem.startswith("_"))
READERS = [module.name for module in pkgutil.iter_modules(graft.data.readers.__path__) if module.name != "base"]
PREPROCESSING: dict[str, Inputs] = {
    "image": Preprocessing(16, (0.5,) * 3, (0.5,) * 3),
    "text": TextPreprocessing(16, HashedNgrams(buckets=100)),
}
SMALL = {"num_samples": 100, "num_test_samples": 50}


def merged(name: str) -> DictConfig:
    """One YAML with those it builds upon."""
    own = OmegaConf.load(CONF / f"{name}.yaml")
    assert isinstance(own, DictConfig)
    bases = [merged(base) for base in own.pop("defaults", []) if base != "_self_"]
    found = OmegaConf.merge(*bases, own)
    assert isinstance(found, DictConfig)
    return found


def plain(name: str, **settings: Any) -> dict[str, Any]:
    """The resolved values of a domain, as a user's overrides would leave them."""
    register_resolvers()
    node = merged(name)
    for key, value in settings.items():
        if key in set(node):  # `in node` would be false for a value that is missing
            node[key] = value
    data = str(settings.get("path", "data"))
    root = OmegaConf.create({"target": node, "paths": {"data": data, "store": f"{data}-store"}})
    values = OmegaConf.to_container(root, resolve=True)
    assert isinstance(values, dict)
    return values["target"]  # type: ignore[no-any-return]


def build(values: dict[str, Any]) -> Any:
    module, _, name = values["_target_"].rpartition(".")
    return getattr(import_module(module), name)(**{k: v for k, v in values.items() if k != "_target_"})


def domain_of(values: dict[str, Any]) -> Domain:
    accepted = inspect.signature(Domain).parameters
    made = {key: value for key, value in values.items() if key in accepted}
    parts = {key: build(value) for key, value in made.items() if isinstance(value, dict)}
    return Domain(**made | parts)


def images(num: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, 20, 24, 3), dtype=np.uint8)


def write_arrays(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "a.npz", x_train=images(30, 0), y_train=np.arange(30) % 3, x_test=images(9, 1), y_test=np.arange(9) % 3
    )
    return folder / "a.npz"


def write_image_folder(folder: Path) -> Path:
    for i, pixels in enumerate(images(30, 0)):
        path = folder / "abc"[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def write_sounds(folder: Path) -> Path:
    for i in range(30):
        write_wav(folder / "abc"[i % 3] / f"{i}.wav", tone(300 * (1 + i % 3) + i, 16000, 0.3), 16000)
    return folder


def write_text_table(folder: Path) -> Path:
    write_reviews(folder)
    return folder / "films_train.csv"


# The domains that are at a path of the user's own, and what writes them there.
WRITERS: dict[str, Callable[[Path], Path]] = {
    "arrays": write_arrays,
    "audio_folder": write_sounds,
    "image_folder": write_image_folder,
    "text_table": write_text_table,
    "text_folder": write_text_folder,
}
READABLE = [name for name in NAMES if name != "none" and ("path" not in set(merged(name)) or name in WRITERS)]


def read(name: str, folder: Path) -> dict[str, Any]:
    """Values of a domain whose data are there, small."""
    path = str(WRITERS[name](folder)) if name in WRITERS else None
    return plain(name, **SMALL, path=path, cache=str(folder / "cache"))


def test_every_reader_is_reached_from_a_yaml() -> None:
    targets = {merged(name).reader._target_.split(".")[-2] for name in NAMES if name != "none"}
    assert targets == set(READERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_says_what_it_is_and_fits_the_signatures(name: str) -> None:
    first_line = (CONF / f"{name}.yaml").read_text().splitlines()[0]
    assert first_line.startswith("# ")
    assert 20 < len(first_line) <= 120
    if name == "none":
        assert merged(name) == {"_target_": None, "name": "none"}
        return
    values = plain(name, path="data")
    assert values["name"] == ("data" if name in WRITERS else name), "data at a path are called after it"
    accepted = inspect.signature(Domain).parameters
    passed_down = {*values["reader"], *(values["rendering"] or {})} - {"_target_"}
    assert set(accepted) <= set(values), "every setting can be overridden without +"
    assert set(values) - set(accepted) - {"_target_"} <= passed_down, "no key without effect"
    domain_of(values)


@pytest.mark.parametrize("name", READABLE)
def test_a_reader_returns_what_a_domain_needs(name: str, tmp_path: Path) -> None:
    values = read(name, tmp_path / "one")
    raw = build(values["reader"]).read()
    assert isinstance(raw, RawDataset)
    for split in raw.splits.values():
        assert len(split.samples) == len(split.labels) > 0
        assert split.labels.dtype == np.int64
        assert 0 <= split.labels.min() <= split.labels.max() < len(raw.class_names)
        if isinstance(split.samples, np.ndarray):
            assert split.samples.dtype == np.uint8
            assert split.samples.ndim == 3 or split.samples.shape[3] in (1, 3)
        elif raw.modality == "text":
            assert all(isinstance(text, str) and text for text in split.samples)
        else:
            assert all(isinstance(path, Path) and path.is_file() for path in split.samples)
    assert set(raw.train.labels) == set(range(len(raw.class_names)))
    assert all(isinstance(class_name, str) for class_name in raw.class_names)
    again = build(read(name, tmp_path / "two")["reader"]).read()
    assert raw.fingerprint == again.fingerprint, "the content counts, not the place"


@pytest.mark.parametrize("name", READABLE)
def test_a_domain_can_be_trained_on(name: str, tmp_path: Path) -> None:
    domain = domain_of(read(name, tmp_path) | {"labels_per_class": 1, "val_fraction": 0.2})
    preprocessing = PREPROCESSING["text" if name.startswith("text_") else "image"]
    domain.load(preprocessing)
    assert domain.sizes["train"] == domain.num_classes
    assert domain.sizes["val"] > 0
    assert domain.sizes["test"] > 0
    [batch, *_] = domain.train_dataloader()
    assert domain.view.evaluate(batch.x).shape[1:] == preprocessing.shape


@pytest.mark.parametrize("name", [name for name in NAMES if "path" in set(merged(name))])
def test_a_missing_path_is_refused_in_two_lines_at_most(name: str, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(UserError) as caught:
        build(plain(name, path=str(missing))["reader"]).read()
    message = str(caught.value)
    assert len(message.splitlines()) <= 2
    assert str(missing) in message
    assert not missing.exists()
