"""Images to be predicted, one after the other: files, folders, arrays."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Generator, Tensor, nn

from graft.data.class_folders import FileKind
from graft.data.decoding import decode
from graft.data.images import resize
from graft.data.preprocessing import Preprocessing
from graft.data.readers.base import Unreadable
from graft.data.readers.image_folder import IMAGES

ARRAY = "x"
ARRAY_LAYOUT = "uint8 [n, h, w] or [n, h, w, c] with c of 1 or 3"


Source = Path | np.ndarray  # of an image that is not decoded yet; an array is uint8 [h, w] or [h, w, c]


def images_at(
    path: Path, refuse: Callable[[Unreadable], None], pass_over: Callable[[Path], None]
) -> Iterator[tuple[str, Source]]:
    """The images at a path: the file, those of a `.npz` file, or all in a folder, in the order of their paths.

    Args:
        path: need not exist; a file is taken for an image whatever its name.
        refuse: is told of files of arrays that cannot be read.
        pass_over: is told of files in folders whose names are not those of images.
    """
    if path.is_dir():
        yield from named_files(path, IMAGES, pass_over)
    elif path.suffix == ".npz":
        yield from _images_in_arrays(path, refuse)
    else:
        yield printable(path), path


def named_files(folder: Path, kind: FileKind, pass_over: Callable[[Path], None]) -> Iterator[tuple[str, Path]]:
    """Names and files of one kind in a folder, in the order of their paths; `pass_over` is told of the others."""
    for file in files_in(folder):
        if kind.matches(file.name):
            yield printable(file), file
        else:
            pass_over(file)


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


def _images_in_arrays(path: Path, refuse: Callable[[Unreadable], None]) -> Iterator[tuple[str, Source]]:
    try:
        images = _read_array(path)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        refuse(Unreadable(path, getattr(error, "strerror", None) or str(error)))
        return
    for index, image in enumerate(images):
        yield f"{printable(path)}[{index}]", image


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


def image_canvas(source: Source, preprocessing: Preprocessing) -> np.ndarray | Unreadable:
    """uint8 [c, canvas, canvas], as a domain brings the same file or array there."""
    if isinstance(source, Path):
        return decode(source, preprocessing)
    [canvas] = resize(source[None], preprocessing).expand(-1, preprocessing.channels, -1, -1).numpy()
    return np.asarray(canvas)


class Normalised(nn.Module):
    """Pixels uint8 [n, c, size, size] as the network is given them: scaled and normalised in float32."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean, std = (
            torch.tensor(values, dtype=torch.float64)[:, None, None]
            for values in (preprocessing.mean, preprocessing.std)
        )
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, images: Tensor) -> Tensor:
        """float32 [n, c, size, size]."""
        return images.to(torch.float32) * self.scale + self.shift


def pixels(preprocessing: Preprocessing, num: int, generator: Generator) -> Tensor:
    """Random pixels uint8 [n, c, size, size]."""
    return torch.randint(0, 256, (num, *preprocessing.shape), dtype=torch.uint8, generator=generator)
