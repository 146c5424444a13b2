"""Images a second of training input: torchvision's usual pipelines beside graft's, measured in turn in one run.

    PYTHONPATH=src python scripts/benchmarks/data.py [--quick]

Every number is the median of several epochs. torchvision's workers stay alive between epochs and their start is not
counted; graft's first epoch counts everything from the bare folder: listing, hashing, decoding and filling the cache.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder as TorchvisionFolder
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from graft.data import compiled
from graft.data.augment import Augmentation
from graft.data.domain import Domain
from graft.data.preprocessing import Preprocessing
from graft.data.readers.base import RawDataset, RawSplit, hash_splits
from graft.data.readers.image_folder import ImageFolder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NUM_CLASSES = 10
WORKERS = 2


def cifar_input(quick: bool) -> dict[str, float]:
    """Images/s of 32 x 32 images in memory: cropped with padding 4, mirrored, normalised, in batches of 128."""
    num, repeats = (6_000, 3) if quick else (50_000, 5)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (num, 32, 32, 3), dtype=np.uint8), np.arange(num) % NUM_CLASSES
    peer = peer_loader(TorchvisionArrays(images, labels), batch_size=128)
    domain = Domain(
        "cifar",
        Arrays(images, labels),
        val_fraction=0.0,
        test_fraction=0.0001,
        batch_size=128,
        augmentation=Augmentation(crop_padding=4, flip=True),
    )
    domain.load(Preprocessing(32, MEAN, STD))
    sources = {
        "torchvision": lambda: peer,
        "graft": lambda: views(domain),
        "graft, not compiled": lambda: views_not_compiled(domain),
    }
    rates = in_turn(sources, repeats)
    return {name: median(found) for name, found in rates.items()}


def folder_input(quick: bool) -> dict[str, float]:
    """Images/s of a folder of JPEGs, shorter edge 256: resized crops of 224, mirrored, normalised, in batches of 64."""
    num, repeats = (400, 3) if quick else (2000, 5)
    folder = Path(photographs(num).name)
    with TemporaryDirectory() as name:
        cache = Path(name)
        peers = {
            "torchvision, Pillow": peer_loader(TorchvisionFolder(folder, pillow_transforms()), batch_size=64),
            "torchvision, decode_image": peer_loader(
                TorchvisionFolder(folder, tensor_transforms(), loader=decode), batch_size=64
            ),
        }
        domain = folder_domain(folder, cache)
        start = time.perf_counter()
        domain.load(Preprocessing(224, MEAN, STD, resize=256))
        first = num / (time.perf_counter() - start + sum(count_seconds(views_not_compiled(domain))[1:]))
        sources = {name: lambda peer=peer: peer for name, peer in peers.items()}
        sources |= {
            "graft, later epochs": lambda: views(domain),
            "graft, later epochs, not compiled": lambda: views_not_compiled(domain),
        }
        rates = in_turn(sources, repeats)
        start = time.perf_counter()
        folder_domain(folder, cache).load(Preprocessing(224, MEAN, STD, resize=256))
        again = num / (time.perf_counter() - start)
    found = {name: median(rate) for name, rate in rates.items()}
    return found | {"graft, first epoch": first, "graft, loading in a later job of a sweep": again}


def folder_domain(folder: Path, cache: Path) -> Domain:
    return Domain(
        "folder",
        ImageFolder(folder),
        val_fraction=0.0,
        test_fraction=0.01,
        batch_size=64,
        memory_limit_gib=0.0,
        cache=cache,
        augmentation=Augmentation(flip=True, resized_crop=(0.08, 1.0)),
    )


def views(domain: Domain) -> Iterator[tuple[Tensor, Tensor]]:
    """What the network sees in an epoch, by compiled code where Numba is there, as in a long run."""
    yield from views_compiled_from(0, domain)


def views_not_compiled(domain: Domain) -> Iterator[tuple[Tensor, Tensor]]:
    """The same by torch and NumPy, as in a short run."""
    yield from views_compiled_from(math.inf, domain)


def views_compiled_from(num_values: float, domain: Domain) -> Iterator[tuple[Tensor, Tensor]]:
    compiled.WORTH_LOADING = num_values
    generator = torch.Generator().manual_seed(0)
    for batch in domain.train_dataloader():
        yield domain.view.train(batch, generator)[:2]


def in_turn(sources: dict[str, Callable[[], Iterable[Any]]], repeats: int) -> dict[str, list[float]]:
    """Images/s of each source in each of so many epochs, one source after the other; the first epoch is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in sources}
    for repeat in range(repeats + 1):
        for name, source in sources.items():
            num, seconds = count_seconds(source())
            if repeat:
                rates[name].append(num / seconds)
    return rates


def count_seconds(batches: Iterable[Any]) -> tuple[int, float]:
    """Images of an epoch, and the time it took; as in training, a batch is gone before the next is asked for."""
    start = time.perf_counter()
    num = sum(map(num_images, batches))
    return num, time.perf_counter() - start


def num_images(batch: Any) -> int:
    return len(batch[0])


class Arrays:
    """A reader of arrays that are in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def read(self) -> RawDataset:
        names = tuple(map(str, range(NUM_CLASSES)))
        train = RawSplit(self.images, self.labels)
        return RawDataset(train, None, None, names, hash_splits([train], names))


class TorchvisionArrays(Dataset[tuple[Tensor, int]]):
    """As `torchvision.datasets.CIFAR10` reads its arrays."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def peer_loader(dataset: Dataset[Any], batch_size: int) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size, shuffle=True, num_workers=WORKERS, persistent_workers=True)


def pillow_transforms() -> Callable[[Image.Image], Tensor]:
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def tensor_transforms() -> Callable[[Tensor], Tensor]:
    return v2.Compose(
        [
            v2.RandomResizedCrop(224, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def decode(path: str) -> Tensor:
    return decode_image(read_file(path), ImageReadMode.RGB)


@cache
def photographs(num: int) -> TemporaryDirectory[str]:
    """A folder of so many JPEGs, there until the process ends."""
    folder = TemporaryDirectory()
    write_photographs(Path(folder.name), num)
    return folder


def write_photographs(folder: Path, num: int) -> None:
    """JPEGs that compress about as photographs do: smooth shapes, some texture, shorter edge 256."""
    rng = np.random.default_rng(0)
    for i in range(num):
        width, height = ((256, 256), (341, 256), (256, 341))[i % 3]
        shapes = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height))
        texture = Image.fromarray(rng.integers(0, 256, (height // 3, width // 3, 3), dtype=np.uint8))
        picture = Image.blend(shapes, texture.resize((width, height)), 0.15)
        path = folder / f"class{i % NUM_CLASSES}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer images and repetitions")
    quick = parser.parse_args().quick
    for title, measure in (("32 x 32 in memory", cifar_input), ("image folder, 256 to 224", folder_input)):
        print(title)
        rates = measure(quick)
        base = next(iter(rates.values()))
        for name, rate in rates.items():
            print(f"  {name:32} {rate:10,.0f} images/s  {rate / base:6.2f}x")


if __name__ == "__main__":
    main()
