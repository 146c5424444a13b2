import warnings
from dataclasses import replace
from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import yaml
from torchvision.datasets import cifar, flowers102, stl10, svhn, utils
from torchvision_files import WRITERS, marked

from graft.data.readers.torchvision import LAYOUTS, TorchvisionSet
from graft.errors import UserError

# Labels of each split as written, and some class names by label.
ARRAYS: dict[str, tuple[list[int], dict[int, str], int]] = {
    "cifar10": ([1, 2, 3, 4, 5], {0: "class 0", 9: "class 9"}, 10),
    "cifar100": ([3, 1, 99], {99: "class 99"}, 100),
    "mnist": ([3, 1, 9], {0: "0", 9: "9"}, 10),
    "fashion_mnist": ([3, 1, 9], {9: "Ankle boot"}, 10),
    "kmnist": ([3, 1, 9], {0: "o"}, 10),
    "emnist": ([3, 1, 46], {0: "0", 10: "A", 46: "t"}, 47),
    "usps": ([3, 1, 9], {0: "0"}, 10),
    "svhn": ([3, 1, 9], {0: "0"}, 10),
    "stl10": ([3, 1, 9], {0: "airplane", 3: "cat", 9: "truck"}, 10),
}
FILES: dict[str, tuple[dict[str, list[str]], dict[int, str], int]] = {
    "flowers102": (
        {
            "train": ["3 image_00001.jpg", "1 image_00002.jpg", "101 image_00004.jpg"],
            "test": ["0 image_00003.jpg", "0 image_00003.jpg"],
            "val": ["2 image_00005.jpg", "0 image_00003.jpg"],
        },
        {0: "pink primrose"},
        102,
    ),
    "oxford_iiit_pet": (
        {
            "train": ["0 Abyssinian_1.jpg", "1 shiba_inu_1.jpg"],
            "test": ["1 shiba_inu_2.jpg", "0 Abyssinian_2.jpg"],
        },
        {1: "Shiba Inu"},
        2,
    ),
    "food101": ({"train": ["1 1.jpg", "0 2.jpg"], "test": ["1 3.jpg"]}, {0: "sushi", 1: "waffles"}, 2),
    "dtd": (
        {
            "train": ["1 woven_0.jpg", "0 banded_0.jpg"],
            "test": ["1 woven_2.jpg", "0 banded_2.jpg"],
            "val": ["1 woven_1.jpg", "0 banded_1.jpg"],
        },
        {0: "banded"},
        2,
    ),
    "eurosat": ({"train": ["0 Forest_1.jpg", "0 Forest_2.jpg", "1 River_1.jpg"]}, {1: "River"}, 2),
    "fgvc_aircraft": (
        {
            "train": ["1 000.jpg", "0 010.jpg"],
            "test": ["1 002.jpg", "0 012.jpg"],
            "val": ["1 001.jpg", "0 011.jpg"],
        },
        {1: "Cessna 172"},
        2,
    ),
    "stanford_cars": ({"train": ["1 1.jpg", "0 2.jpg"], "test": ["1 1.jpg", "0 2.jpg"]}, {1: "Audi S6"}, 2),
    "gtsrb": ({"train": [f"{i} 00000_00000.ppm" for i in range(43)], "test": ["16 00000.ppm"]}, {42: "42"}, 43),
    "caltech101": ({"train": ["0 image_0001.jpg", "0 image_0002.jpg", "1 image_0001.jpg"]}, {0: "Faces", 1: "ant"}, 2),
    "imagenette": (
        {
            "train": ["0 n01440764_1.JPEG", "1 n02102040_1.JPEG"],
            "test": ["0 n01440764_2.JPEG", "1 n02102040_2.JPEG"],
        },
        {0: "tench"},
        2,
    ),
}


@pytest.fixture(autouse=True)
def _without_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny files cannot have the checksums of the real ones."""
    for module in (cifar, svhn, stl10, flowers102):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).is_file())


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses asked for, on a machine without a network."""
    asked: list[str] = []

    def refuse(request: Any, *_: Any, **__: Any) -> None:
        asked.append(request.full_url)
        raise URLError("Name or service not known")

    monkeypatch.setattr(utils.urllib.request, "urlopen", refuse)
    return asked


def refusal(name: str, path: Path, download: bool = False) -> str:
    with pytest.raises(UserError) as raised:
        TorchvisionSet(name, path, download).read()
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 250 + len(str(path))
    return message


def test_every_set_is_tried() -> None:
    assert WRITERS.keys() == LAYOUTS.keys() == ARRAYS.keys() | FILES.keys()


def test_every_set_has_a_configuration(conf: Path) -> None:
    nodes = {path.stem: yaml.safe_load(path.read_text()) for path in (conf / "domain").glob("[!_]*.yaml")}
    sets = {stem: node for stem, node in nodes.items() if "_torchvision" in node.get("defaults", [])}
    assert {stem: node["reader"]["name"] for stem, node in sets.items()} == {name: name for name in LAYOUTS}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    labels, class_names, num_classes = ARRAYS[name]
    raw = TorchvisionSet(name, tmp_path).read()
    assert raw.train.labels.dtype == np.int64
    assert {split: found.labels.tolist() for split, found in raw.splits.items()} == {
        "train": labels,
        "test": [0, 0] if name == "svhn" else [0],
    }
    assert len(raw.class_names) == num_classes
    assert {label: raw.class_names[label] for label in class_names} == class_names
    images = raw.train.samples
    assert isinstance(images, np.ndarray)
    assert images.flags.c_contiguous
    expected = marked(len(labels), images.shape[1], 3 if images.ndim == 4 else 1)
    np.testing.assert_array_equal(images, expected if images.ndim == 4 else expected[..., 0], strict=True)


@pytest.mark.parametrize("name", FILES)
def test_image_files(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    splits, class_names, num_classes = FILES[name]
    raw = TorchvisionSet(name, tmp_path).read()
    assert raw.train.labels.dtype == np.int64
    found = {
        split: [f"{label} {image.name}" for label, image in zip(read.labels, read.samples, strict=True)]
        for split, read in raw.splits.items()
    }
    assert found == splits
    assert all(isinstance(image, Path) and image.is_file() for read in raw.splits.values() for image in read.samples)
    assert len(raw.class_names) == num_classes
    assert {label: raw.class_names[label] for label in class_names} == class_names


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        WRITERS["svhn"](tmp_path / place)
    here, there = (TorchvisionSet("svhn", tmp_path / place).read().fingerprint for place in ("here", "there"))
    assert here == there
    (tmp_path / "there" / "test_32x32.mat").write_bytes((tmp_path / "there" / "train_32x32.mat").read_bytes())
    assert TorchvisionSet("svhn", tmp_path / "there").read().fingerprint != here


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("folder", ["", "absent"])
def test_not_downloaded(tmp_path: Path, requests: list[str], name: str, folder: str) -> None:
    message = refusal(name, tmp_path / folder)
    assert message.startswith(f"{name} is not in {tmp_path / folder}")
    assert ("target.download=true" in message) == (name != "stanford_cars")
    assert requests == []
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_network(tmp_path: Path, requests: list[str], name: str) -> None:
    message = refusal(name, tmp_path, download=True)
    if name == "stanford_cars":  # its address is gone
        assert "no longer" in message
        assert requests == []
    else:
        assert f"{name} could not be downloaded to {tmp_path}" in message
        assert "Name or service not known" in message
        assert requests


def test_interrupted_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(*_: Any, **__: Any) -> None:
        raise IncompleteRead(b"half")

    monkeypatch.setattr(utils.urllib.request, "urlopen", cut_short)
    assert "IncompleteRead" in refusal("svhn", tmp_path, download=True)


def test_what_is_there_is_not_downloaded_again(tmp_path: Path, requests: list[str]) -> None:
    WRITERS["mnist"](tmp_path)
    assert len(TorchvisionSet("mnist", tmp_path, download=True).read().train) == 3
    assert requests == []


@pytest.mark.parametrize("length", [0, 10, 100])
def test_damaged_file(tmp_path: Path, length: int) -> None:
    WRITERS["mnist"](tmp_path)
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:length])
    assert "or is damaged there" in refusal("mnist", tmp_path)


def test_old_pickles_do_not_warn() -> None:
    def load(root: Path) -> Path:
        message = "dtype(): align should be passed as Python or NumPy boolean but got `align=0`."
        warnings.warn(message, np.exceptions.VisibleDeprecationWarning, stacklevel=1)
        return root

    assert replace(LAYOUTS["cifar10"], dataset=load).open(Path("here"), {}) == Path("here")


def test_unknown_name(tmp_path: Path) -> None:
    assert "did you mean 'fashion_mnist'?" in refusal("fasion_mnist", tmp_path)
