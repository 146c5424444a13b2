"""Image files in folders: one folder per class, perhaps below one folder per split or per domain."""

import os
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from graft.data.readers.base import RawDataset, RawSplit, hash_splits
from graft.data.versions import files_version
from graft.errors import UserError, listed, nearest_path

SPLITS = ("train", "val", "test")
LAYOUTS = "<class>/*.jpg, {train,val,test}/<class>/*.jpg or <domain>/<class>/*.jpg"


@dataclass(frozen=True)
class ImageFolder:
    """Images in `path`, labelled by the folder they lie in; classes are numbered in the order of their names.

    Layouts, told apart by what is there:

    - `path/<class>/*.jpg`: no test split;
    - `path/{train,test}/<class>/*.jpg`, `{train,val,test}` or `{train,val}`; in the last, `val` is the held-out test;
    - `path/<domain>/<class>/*.jpg`, of which `domain` (a name, or several) says what to read.

    Names that start with a dot are passed over. `read` raises `UserError` where the folder, the domain or the classes
    are missing, where a class is empty, where splits or domains differ in their classes, and for a single class.
    """

    path: str | Path
    domain: str | Sequence[str] | None = None

    def version(self) -> Hashable:
        """Changes with the image files: one written, replaced, added or taken away."""
        trees = (tree for part in self._parts() for tree in part.values())
        return tuple((name, files_version(files)) for tree in trees for name, files in tree.files.items())

    def read(self) -> RawDataset:
        """List the image files; they are opened for the fingerprint only."""
        root = Path(self.path).expanduser()
        parts = self._parts()
        class_names = common_classes([tree for part in parts for tree in part.values()])
        splits = {name: gather([part[name] for part in parts], class_names) for name in common_splits(parts)}
        train, test, val = splits["train"], splits.get("test"), splits.get("val")
        return RawDataset(train, test, val, class_names, hash_splits([train, test, val], class_names), root)

    def _parts(self) -> list[dict[str, "ClassTree"]]:
        """The splits of the root, or of each chosen domain."""
        root = Path(self.path).expanduser()
        check_is_folder(root)
        return [split_trees(folder) for folder in self._folders(root)]

    def _folders(self, root: Path) -> list[Path]:
        """The root itself, or the chosen domains in it."""
        if self.domain is None:
            check_needs_no_domain(root)
            return [root]
        chosen = [self.domain] if isinstance(self.domain, str) else list(dict.fromkeys(self.domain))
        domains = domains_in(root)
        unknown = [name for name in chosen if name not in domains]
        if unknown or not chosen:
            raise UserError(f"domain={', '.join(unknown) or '[]'}: {describe_domains(root, domains)}")
        return [root / name for name in chosen]


@dataclass(frozen=True)
class ClassTree:
    """One folder of class folders."""

    folder: Path
    files: dict[str, list[Path]]  # class name -> image files


def split_trees(folder: Path) -> dict[str, ClassTree]:
    """The splits that `folder` holds; all of it is `train` where it holds classes."""
    if not holds_splits(folder):
        return {"train": class_tree(folder)}
    check_only_splits(folder)
    trees = {name: class_tree(folder / name) for name in SPLITS if (folder / name).is_dir()}
    if "test" not in trees and "val" in trees:
        trees["test"] = trees.pop("val")
    return trees


def class_tree(folder: Path) -> ClassTree:
    """The class folders in `folder`, each of which must hold an image."""
    files = {child.name: image_files(child) for child in folders_in(folder)}
    if not files:
        raise UserError(f"{folder} holds no class folders; expected {LAYOUTS}")
    empty = [name for name, images in files.items() if not images]
    if empty:
        raise UserError(f"{folder}: no images ({', '.join(IMG_EXTENSIONS)}) in class {quoted(empty)}")
    return ClassTree(folder, files)


def common_classes(trees: list[ClassTree]) -> tuple[str, ...]:
    """The class names, which must be the same in every tree."""
    first = trees[0]
    for tree in trees[1:]:
        unshared = first.files.keys() ^ tree.files.keys()
        if unshared:
            raise UserError(f"{first.folder} and {tree.folder} differ in class {quoted(sorted(unshared))}")
    if len(first.files) == 1:
        raise UserError(f"{first.folder} holds one class only, {quoted(first.files)}; expected two or more")
    return tuple(sorted(first.files))


def common_splits(parts: list[dict[str, ClassTree]]) -> list[str]:
    """The split names, which must be the same in every domain."""
    if any(part.keys() != parts[0].keys() for part in parts):
        found = "; ".join(f"{part['train'].folder}: {', '.join(part)}" for part in parts)
        raise UserError(f"domains read together need the same splits, found {found}")
    return list(parts[0])


def gather(trees: list[ClassTree], class_names: tuple[str, ...]) -> RawSplit:
    """The files of every tree, tree by tree and class by class."""
    groups = [(tree.files[name], label) for tree in trees for label, name in enumerate(class_names)]
    images = [image for files, _ in groups for image in files]
    labels = np.repeat([label for _, label in groups], [len(files) for files, _ in groups])
    return RawSplit(images, labels.astype(np.int64))


def holds_splits(folder: Path) -> bool:
    """Whether the folders in `folder` are splits; a class may be called `train` too, but holds images itself."""
    train = folder / "train"
    others = any((folder / name).is_dir() for name in ("val", "test"))
    return train.is_dir() and (others or not holds_images(train))


def domains_in(root: Path) -> list[str]:
    """The folders in `root` that hold class folders."""
    return [
        child.name
        for child in folders_in(root)
        if holds_splits(child) or any(holds_images(grandchild) for grandchild in folders_in(child))
    ]


def check_needs_no_domain(root: Path) -> None:
    """Refuse a root that holds domains where classes are expected."""
    if holds_splits(root) or any(holds_images(child) for child in folders_in(root)):
        return
    domains = domains_in(root)
    if domains:
        raise UserError(
            f"which domain of {root}? {describe_domains(root, domains)}; for example target.domain={domains[0]}"
        )


def check_only_splits(folder: Path) -> None:
    """Refuse images beside the splits: a `validation` passed over in silence would be missed by nobody."""
    others = [child.name for child in folders_in(folder) if child.name not in SPLITS and image_files(child)]
    if others:
        raise UserError(f"{folder} holds {quoted(others)} beside train; expected {', '.join(SPLITS)} only")


def check_is_folder(path: Path) -> None:
    """Refuse what is no folder, with the nearest name where the path stops existing."""
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f"path={path}: a file; expected a folder of images")
    raise UserError(f"path={path}: no such folder{nearest_path(path)}")


def describe_domains(root: Path, domains: list[str]) -> str:
    """What there is to choose from."""
    return f"the domains are {', '.join(domains)}" if domains else f"{root} holds no domains; expected {LAYOUTS}"


def folders_in(folder: Path) -> list[Path]:
    """The visible folders in `folder`, in the order of their names."""
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def holds_images(folder: Path) -> bool:
    """Whether images lie in `folder` itself."""
    return any(is_image(name) for name in os.listdir(folder))


def image_files(folder: Path) -> list[Path]:
    """Every image in `folder`, however deep, in the order of their paths."""
    images = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images += [Path(here, name) for name in names if is_image(name)]
    return sorted(images)


def is_image(name: str) -> bool:
    """Judged by the name; whether it can be decoded shows later."""
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")


def quoted(names: Iterable[str]) -> str:
    """Quoted names, the first eight."""
    return listed(map(repr, names), most=8)
