"""Writes tiny data sets in the file formats that torchvision reads, as their authors publish them.

Arrays hold `marked` images, so that a test sees whether they come back the right way up. Image files hold their own
name instead of an image, for readers do not decode.
"""

import bz2
import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import scipy.io


def marked(num: int, size: int, channels: int = 1) -> np.ndarray:
    """uint8 [n, size, size, channels], black but for the first channel of row 0, column 1."""
    images = np.zeros((num, size, size, channels), np.uint8)
    images[:, 0, 1, 0] = 255
    return images


def write_image_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_idx(path: Path, array: np.ndarray) -> None:
    """Yann LeCun's format: the type's code 8 for uint8, the number of axes, their lengths, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes())


def idx_set(folder: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for split, labels in (("train", [3, 1, 9]), ("t10k", [0])):
            write_idx(root / folder / "raw" / f"{split}-images-idx3-ubyte", marked(len(labels), 28)[..., 0])
            write_idx(root / folder / "raw" / f"{split}-labels-idx1-ubyte", np.array(labels, np.uint8))

    return write


def emnist(root: Path) -> None:
    for split, labels in (("train", [3, 1, 46]), ("test", [0])):
        stem = root / "EMNIST" / "raw" / f"emnist-balanced-{split}"
        write_idx(stem.with_name(f"{stem.name}-images-idx3-ubyte"), marked(len(labels), 28)[..., 0].transpose(0, 2, 1))
        write_idx(stem.with_name(f"{stem.name}-labels-idx1-ubyte"), np.array(labels, np.uint8))


def old_pickle(value: object) -> bytes:
    """As Python 2 with the NumPy of its time pickled: flags of a dtype are ints, the module is numpy.core."""
    new = pickle.dumps(value, protocol=2)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray").replace(b"\x89\x88\x87", b"K\x00K\x01\x87")
    assert old != new
    return old


def cifar_batch(path: Path, key: str, labels: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = marked(len(labels), 32, 3).transpose(0, 3, 1, 2).reshape(len(labels), -1)
    path.write_bytes(old_pickle({"data": rows, key: labels}))


def cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    for batch in range(1, 6):
        cifar_batch(folder / f"data_batch_{batch}", "labels", [batch])
    cifar_batch(folder / "test_batch", "labels", [0])
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}, 2))


def cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    cifar_batch(folder / "train", "fine_labels", [3, 1, 99])
    cifar_batch(folder / "test", "fine_labels", [0])
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class {i}" for i in range(100)]}, 2))


def usps(root: Path) -> None:
    """LIBSVM's format: a label from 1, then `position:value` with values of -1 to 1."""
    for name, labels in (("usps.bz2", [4, 2, 10]), ("usps.t.bz2", [1])):
        values = marked(1, 16).reshape(-1) / 127.5 - 1
        features = " ".join(f"{i}:{value:.4f}" for i, value in enumerate(values, 1))
        (root / name).write_bytes(bz2.compress("".join(f"{label} {features}\n" for label in labels).encode()))


def svhn(root: Path) -> None:
    """[h, w, c, n], with 10 for the digit 0."""
    for split, labels in (("train", [3, 1, 9]), ("test", [10, 10])):  # torchvision takes no single label
        images = marked(len(labels), 32, 3).transpose(1, 2, 3, 0)
        scipy.io.savemat(root / f"{split}_32x32.mat", {"X": images, "y": np.array(labels)[:, None]})


def stl10(root: Path) -> None:
    """[n, c, w, h], labels from 1."""
    folder = root / "stl10_binary"
    folder.mkdir()
    for split, labels in (("train", [4, 2, 10]), ("test", [1])):
        (folder / f"{split}_X.bin").write_bytes(marked(len(labels), 96, 3).transpose(0, 3, 2, 1).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes(labels))
    (folder / "unlabeled_X.bin").touch()


def flowers102(root: Path) -> None:
    folder = root / "flowers-102"
    for number in range(1, 6):
        write_image_file(folder / "jpg" / f"image_{number:05d}.jpg")
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([[4, 2, 1, 102, 3]])})
    ids = {"trnid": np.array([[1, 2, 4]]), "valid": np.array([[5, 3]]), "tstid": np.array([[3, 3]])}
    scipy.io.savemat(folder / "setid.mat", ids)


def oxford_iiit_pet(root: Path) -> None:
    """A line is the image, the breed from 1, cat or dog, and the breed's number among them."""
    folder = root / "oxford-iiit-pet"
    lists = {
        "trainval": ["Abyssinian_1 1 1 1", "shiba_inu_1 2 2 1"],
        "test": ["shiba_inu_2 2 2 1", "Abyssinian_2 1 1 1"],
    }
    for split, lines in lists.items():
        write_lines(folder / "annotations" / f"{split}.txt", lines)
        for line in lines:
            write_image_file(folder / "images" / f"{line.split()[0]}.jpg")


def food101(root: Path) -> None:
    folder = root / "food-101"
    lists = {"train": {"waffles": ["waffles/1"], "sushi": ["sushi/2"]}, "test": {"waffles": ["waffles/3"], "sushi": []}}
    (folder / "meta").mkdir(parents=True)
    for split, images in lists.items():
        (folder / "meta" / f"{split}.json").write_text(json.dumps(images))
        for image in (image for of_class in images.values() for image in of_class):
            write_image_file(folder / "images" / f"{image}.jpg")


def dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    for number, split in enumerate(("train", "val", "test")):
        images = [f"{name}/{name}_{number}.jpg" for name in ("woven", "banded")]
        write_lines(folder / "labels" / f"{split}1.txt", images)
        for image in images:
            write_image_file(folder / "images" / image)


def eurosat(root: Path) -> None:
    for name in ("Forest/Forest_1.jpg", "River/River_1.jpg", "Forest/Forest_2.jpg"):
        write_image_file(root / "eurosat" / "2750" / name)


def fgvc_aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    write_lines(folder / "variants.txt", ["707-320", "Cessna 172"])
    for number, split in enumerate(("train", "val", "test")):
        write_lines(folder / f"images_variant_{split}.txt", [f"00{number} Cessna 172", f"01{number} 707-320"])
        for image in (f"00{number}", f"01{number}"):
            write_image_file(folder / "images" / f"{image}.jpg")


def stanford_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    kinds = np.array([["Acura RL", "Audi S6"]], dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": kinds})
    for split, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        cars = np.array([(f"{i}.jpg", kind) for i, kind in ((1, 2), (2, 1))], dtype=[("fname", object), ("class", int)])
        scipy.io.savemat(folder / path, {"annotations": cars})
        for i in (1, 2):
            write_image_file(folder / f"cars_{split}" / f"{i}.jpg")


def gtsrb(root: Path) -> None:
    folder = root / "gtsrb"
    for sign in range(43):
        write_image_file(folder / "GTSRB" / "Training" / f"{sign:05d}" / "00000_00000.ppm")
    write_image_file(folder / "GTSRB" / "Final_Test" / "Images" / "00000.ppm")
    write_lines(folder / "GT-final_test.csv", ["Filename;Width;ClassId", "00000.ppm;53;16"])


def caltech101(root: Path) -> None:
    for name in (
        "Faces/image_0001.jpg",
        "Faces/image_0002.jpg",
        "ant/image_0001.jpg",
        "BACKGROUND_Google/image_0001.jpg",
    ):
        write_image_file(root / "caltech101" / "101_ObjectCategories" / name)


def imagenette(root: Path) -> None:
    for split, number in (("train", 1), ("val", 2)):
        for wnid in ("n01440764", "n02102040"):
            write_image_file(root / "imagenette2" / split / wnid / f"{wnid}_{number}.JPEG")


WRITERS = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "mnist": idx_set("MNIST"),
    "fashion_mnist": idx_set("FashionMNIST"),
    "kmnist": idx_set("KMNIST"),
    "emnist": emnist,
    "usps": usps,
    "svhn": svhn,
    "stl10": stl10,
    "flowers102": flowers102,
    "oxford_iiit_pet": oxford_iiit_pet,
    "food101": food101,
    "dtd": dtd,
    "eurosat": eurosat,
    "fgvc_aircraft": fgvc_aircraft,
    "stanford_cars": stanford_cars,
    "gtsrb": gtsrb,
    "caltech101": caltech101,
    "imagenette": imagenette,
}
