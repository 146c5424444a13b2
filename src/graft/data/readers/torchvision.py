"""The data sets that torchvision knows, read from its files, and downloaded only when asked."""

import warnings
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from graft.data.downloads import REMEDY, not_downloaded
from graft.data.protocol import by_protocol
from graft.data.readers.base import RawDataset, RawSplit, hash_splits
from graft.data.versions import tree_version
from graft.errors import UserError, did_you_mean

Splits = dict[str, dict[str, Any]]  # our name of a split -> the constructor arguments that choose it

# What torchvision raises for files that are absent, cut short, or not what their names say.
UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, LookupError, AssertionError)


@dataclass(frozen=True)
class TorchvisionSet:
    """One of torchvision's labelled image sets, with the splits that its authors defined.

    Where the authors' held-out images are called `val`, as Imagenette's are, they are our `test`.

    Args:
        name: a key of `LAYOUTS`.
        path: folder that holds torchvision's folders and files.
        download: fetch what is not there.
        margin, pool_splits: as `by_protocol` has them.
    """

    name: str
    path: str | Path
    download: bool = False
    margin: int = 0
    pool_splits: bool = False

    def version(self) -> Hashable:
        """Changes with the files below the folder."""
        return tree_version(Path(self.path).expanduser())

    def read(self) -> RawDataset:
        """Read every split.

        Raises:
            UserError: no such set; its files are not there, or damaged; the download failed; no such margin.
        """
        if self.name not in LAYOUTS:
            raise UserError(f"no torchvision data set {self.name!r}; {did_you_mean(self.name, LAYOUTS)}")
        layout = LAYOUTS[self.name]
        splits: dict[str, RawSplit] = {}
        class_names: tuple[str, ...] = ()
        for split, options in layout.splits.items():
            dataset = self._open(layout, options)
            splits[split] = layout.read(dataset)
            class_names = class_names or tuple(str(name) for name in layout.class_names(dataset))
        splits = by_protocol(splits, self.margin, self.pool_splits)
        train, test, val = splits["train"], splits.get("test"), splits.get("val")
        fingerprint = hash_splits((train, test, val), class_names)
        return RawDataset(train, test, val, class_names, fingerprint, Path(self.path).expanduser())

    def _open(self, layout: "Layout", options: dict[str, Any]) -> Any:
        """Torchvision's object, from what is on disk or else from its address."""
        root = Path(self.path).expanduser()
        try:
            if not root.is_dir():  # some of torchvision's classes would make it
                raise FileNotFoundError(root)
            return layout.open(root, options)
        except UNREADABLE as error:
            if not (self.download and layout.downloadable):
                raise UserError(f"{self.name} is not in {root}, or is damaged there; {layout.remedy}") from error
        try:
            return layout.open(root, {**options, "download": True})
        except (*UNREADABLE, HTTPException) as error:
            raise not_downloaded(self.name, root, error) from error


@dataclass(frozen=True)
class Layout:
    """How one of torchvision's classes gives its splits, its images with their labels, and its class names."""

    dataset: Callable[..., Any]
    splits: Splits
    read: Callable[[Any], RawSplit]
    class_names: Callable[[Any], Iterable[str]]
    downloadable: bool = True

    @property
    def remedy(self) -> str:
        """What to do where the files are not there."""
        if self.downloadable:
            return REMEDY
        return "it can no longer be downloaded: put the files there that torchvision's documentation lists"

    def open(self, root: Path, options: dict[str, Any]) -> Any:
        """Construct torchvision's object."""
        with warnings.catch_warnings():
            # NumPy 2.4.0 to 2.4.4 warn of pickles as old as CIFAR's, where this argument is an int.
            warnings.filterwarnings("ignore", r"dtype\(\): align", np.exceptions.VisibleDeprecationWarning)
            return self.dataset(root, **options)


def in_memory(labels: str = "targets", axes: tuple[int, ...] | None = None) -> Callable[[Any], RawSplit]:
    """Reads `data` and the attribute `labels`; `axes` is the order that gives [n, h, w] or [n, h, w, c]."""

    def read(dataset: Any) -> RawSplit:
        images = np.asarray(dataset.data)
        images = images if axes is None else images.transpose(axes)
        return RawSplit(np.ascontiguousarray(images), np.asarray(getattr(dataset, labels), np.int64))

    return read


def file_lists(images: str = "_image_files") -> Callable[[Any], RawSplit]:
    """Reads a list of files and a list of labels."""
    return lambda dataset: files_split(getattr(dataset, images), dataset._labels)


def file_pairs(pairs: str = "_samples") -> Callable[[Any], RawSplit]:
    """Reads a list of pairs of file and label."""

    def read(dataset: Any) -> RawSplit:
        found = getattr(dataset, pairs)
        return files_split((path for path, _ in found), [label for _, label in found])

    return read


def caltech101(dataset: Any) -> RawSplit:
    """Files are numbered from 1 in the folder of their category."""
    folder = Path(dataset.root, "101_ObjectCategories")
    numbered = zip(dataset.y, dataset.index, strict=True)
    return files_split((folder / dataset.categories[y] / f"image_{i:04d}.jpg" for y, i in numbered), dataset.y)


def files_split(paths: Iterable[str | Path], labels: Iterable[int]) -> RawSplit:
    """A split of image files."""
    return RawSplit([Path(path) for path in paths], np.asarray(list(labels), np.int64))


def classes(dataset: Any) -> list[str]:
    """Torchvision's names; the first of each where it lists synonyms."""
    return [name if isinstance(name, str) else name[0] for name in dataset.classes]


def known(names: Iterable[str]) -> Callable[[Any], Iterable[str]]:
    """Names that torchvision's class does not have, or writes as `0 - zero`."""
    names = tuple(names)
    return lambda dataset: names


def named(**splits: str) -> Splits:
    """Splits by torchvision's names."""
    return {ours: {"split": theirs} for ours, theirs in splits.items()}


FLAG: Splits = {"train": {"train": True}, "test": {"train": False}}
EMNIST: Splits = {split: {"split": "balanced", **options} for split, options in FLAG.items()}
WHOLE: Splits = {"train": {}}
TRAIN_TEST = named(train="train", test="test")
TRAIN_TEST_VAL = named(train="train", test="test", val="val")
DIGITS = known("0123456789")
STL10 = known(["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"])
SIGNS = known(str(sign) for sign in range(43))

LAYOUTS = {
    "cifar10": Layout(datasets.CIFAR10, FLAG, in_memory(), classes),
    "cifar100": Layout(datasets.CIFAR100, FLAG, in_memory(), classes),
    "mnist": Layout(datasets.MNIST, FLAG, in_memory(), DIGITS),
    "fashion_mnist": Layout(datasets.FashionMNIST, FLAG, in_memory(), classes),
    "kmnist": Layout(datasets.KMNIST, FLAG, in_memory(), classes),
    # EMNIST's files hold every image with its rows and columns exchanged.
    "emnist": Layout(datasets.EMNIST, EMNIST, in_memory(axes=(0, 2, 1)), classes),
    "usps": Layout(datasets.USPS, FLAG, in_memory(), DIGITS),
    "svhn": Layout(datasets.SVHN, TRAIN_TEST, in_memory("labels", axes=(0, 2, 3, 1)), DIGITS),
    "stl10": Layout(datasets.STL10, TRAIN_TEST, in_memory("labels", axes=(0, 2, 3, 1)), STL10),
    "flowers102": Layout(datasets.Flowers102, TRAIN_TEST_VAL, file_lists(), classes),
    "oxford_iiit_pet": Layout(
        datasets.OxfordIIITPet, named(train="trainval", test="test"), file_lists("_images"), classes
    ),
    "food101": Layout(datasets.Food101, TRAIN_TEST, file_lists(), classes),
    "dtd": Layout(datasets.DTD, TRAIN_TEST_VAL, file_lists(), classes),
    "eurosat": Layout(datasets.EuroSAT, WHOLE, file_pairs("samples"), classes),
    "fgvc_aircraft": Layout(datasets.FGVCAircraft, TRAIN_TEST_VAL, file_lists(), classes),
    "stanford_cars": Layout(datasets.StanfordCars, TRAIN_TEST, file_pairs(), classes, downloadable=False),
    "gtsrb": Layout(datasets.GTSRB, TRAIN_TEST, file_pairs(), SIGNS),
    "caltech101": Layout(datasets.Caltech101, WHOLE, caltech101, lambda dataset: dataset.categories),
    "imagenette": Layout(datasets.Imagenette, named(train="train", test="val"), file_pairs(), classes),
}
