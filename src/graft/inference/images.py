"""Images to be predicted, one after the other: files, folders, arrays."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from graft.data.decoding import Unreadable, decode
from graft.data.images import resize
from graft.data.preprocessing import Preprocessing
from graft.data.readers.image_folder import is_image

ARRAY = "x"
ARRAY_LAYOUT = "uint8 [n, h, w] or [n, h, w, c] with c of 1 or 3"


@dataclass(frozen=True)
class Item:
    """One image, not decoded yet."""

    name: str
    source: Path | np.ndarray  # uint8 [h, w] or [h, w, c]


@dataclass(frozen=True)
class Canvases:
    """Some images on their canvas, and those that could not be brought there."""

    names: list[str]
    images: Tensor  # uint8 [n, c, canvas, canvas]
    broken: list[Unreadable]


def items_in(path: Path, refuse: Callable[[Unreadable], None], pass_over: Callable[[Path], None]) -> Iterator[Item]:
    """The images at a path: the file, those of a `.npz` file, or all in a folder, in the order of their paths.

    Args:
        path: need not exist; a file is taken for an image whatever its name.
        refuse: is told of files of arrays that cannot be read.
        pass_over: is told of files in folders whose names are not those of images.
    """
    if path.is_dir():
        for file in files_in(path):
            if is_image(file.name):
                yield Item(printable(file), file)
            else:
                pass_over(file)
    elif path.suffix == ".npz":
        yield from _items_in_arrays(path, refuse)
    else:
        yield Item(printable(path), path)


def files_in(folder: Path) -> Iterator[Path]:
    """Every file in a folder, however deep, in the order of their paths; names that start with a dot are left out."""
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in visible:
        if entry.is_dir(follow_symlinks=False):
            yield from files_in(folder / entry.name)
        else:
            yield folder / entry.name


def printable(path: Path) -> str:
    """The path as text that any encoding of Unicode can write."""
    return os.fsencode(path).decode("utf-8", "replace")


def _items_in_arrays(path: Path, refuse: Callable[[Unreadable], None]) -> Iterator[Item]:
    try:
        images = _read_array(path)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        refuse(Unreadable(path, getattr(error, "strerror", None) or str(error)))
        return
    for index, image in enumerate(images):
        yield Item(f"{printable(path)}[{index}]", image)


def _read_array(path: Path) -> np.ndarray:
    """The images uint8 [n, h, w] or [n, h, w, c] in a file: its only array, or the one called `x`.

    Raises:
        ValueError: what is in it cannot be used; others where it is damaged or missing.
    """
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        names = list(arrays.keys())
        name = names[0] if len(names) == 1 else ARRAY
        if name not in names:
            raise ValueError(f"holds {', '.join(names) or 'nothing'}; expected one array, or one called {ARRAY!r}")
        images: np.ndarray = arrays[name]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise ValueError(f"{name} is {images.dtype} {list(images.shape)}; expected {ARRAY_LAYOUT}")
    if 0 in images.shape[1:]:
        raise ValueError(f"{name} is {list(images.shape)}: its images have no pixels")
    return images


def in_batches(items: Iterable[Item], batch_size: int) -> Iterator[list[Item]]:
    """The items in lists of so many, the last of as many as are left."""
    remaining = iter(items)
    while batch := list(islice(remaining, batch_size)):
        yield batch


def read_batch(preprocessing: Preprocessing, items: list[Item]) -> Canvases:
    """Decode some images."""
    names: list[str] = []
    images: list[np.ndarray] = []
    broken: list[Unreadable] = []
    for item in items:
        found = _canvas(item.source, preprocessing)
        if isinstance(found, Unreadable):
            broken.append(found)
        else:
            names.append(item.name)
            images.append(found)
    side = preprocessing.canvas
    stacked = np.stack(images) if images else np.empty((0, preprocessing.channels, side, side), np.uint8)
    return Canvases(names, torch.from_numpy(stacked), broken)


def _canvas(source: Path | np.ndarray, preprocessing: Preprocessing) -> np.ndarray | Unreadable:
    """uint8 [c, canvas, canvas], as a domain brings the same file or array there."""
    if isinstance(source, Path):
        return decode(source, preprocessing)
    [canvas] = resize(source[None], preprocessing).expand(-1, preprocessing.channels, -1, -1).numpy()
    return np.asarray(canvas)
