"""Files in folders: one folder per class, perhaps below one folder per split or per domain."""

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from graft.data.content_index import hash_files
from graft.data.files import Files
from graft.data.readers.base import RawDataset, RawSplit, hash_splits
from graft.data.versions import file_version
from graft.errors import UserError, listed, nearest_path

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class FileKind:
    """What the files are, judged by their names; whether they can be decoded shows later."""

    noun: str  # of several
    suffixes: tuple[str, ...]  # in lower case, each with its dot

    def matches(self, name: str) -> bool:
        """Whether a file of that name is one."""
        return name.lower().endswith(self.suffixes) and not name.startswith(".")

    @property
    def layouts(self) -> str:
        """How the files may lie, for people."""
        file = f"*{self.suffixes[0]}"
        return f"<class>/{file}, {{train,val,test}}/<class>/{file} or <domain>/<class>/{file}"


@dataclass(frozen=True)
class ClassFolders:
    """Files of one kind in `path`, labelled by the folder they lie in; classes are numbered in the order of names.

    Layouts, told apart by what is there:

    - `path/<class>/*`: no test split;
    - `path/{train,test}/<class>/*`, `{train,val,test}` or `{train,val}`; in the last, `val` is the held-out test;
    - `path/<domain>/<class>/*`, of which `domain` (a name, or several) says what to read.

    Names that start with a dot are passed over. The folder itself may be a link, and so may classes and files in it
    that stay within it; links out of it are refused, as are pipes and devices, which have no end.
    """

    path: str | Path
    domain: str | Sequence[str] | None
    kind: FileKind

    @property
    def root(self) -> Path:
        """The folder."""
        return Path(self.path).expanduser()

    def version(self) -> Hashable:
        """Changes with the files: one written, replaced, added or taken away."""
        digest = blake2b(digest_size=20)  # a million states would take as much memory as the files' names
        for part in self._parts():
            for tree in part.values():
                for name in (name for files in tree.files.values() for name in files):
                    digest.update(repr((name, file_version(name))).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def read(self, modality: str, hash_all: Callable[[list[str]], np.ndarray] = hash_files) -> RawDataset:
        """A data set whose samples are the files; they are opened for the fingerprint only.

        Args:
            modality: of the samples.
            hash_all: the hash of each of some files, as for `hash_splits`.

        Raises:
            UserError: as `list_files`.
        """
        splits, class_names = self.list_files()
        train, test, val = splits["train"], splits.get("test"), splits.get("val")
        fingerprint = hash_splits([train, test, val], class_names, hash_all)
        return RawDataset(train, test, val, class_names, fingerprint, self.root, modality)

    def list_files(self) -> tuple[dict[str, RawSplit], tuple[str, ...]]:
        """The files of each split with their labels, and the class names.

        Raises:
            UserError: the folder, the domain or the classes are missing, a class is empty, splits or domains differ in
                their classes, or there is a single class.
        """
        parts = self._parts()
        class_names = common_classes([tree for part in parts for tree in part.values()])
        splits = {name: gather([part[name] for part in parts], class_names) for name in common_splits(parts)}
        return splits, class_names

    def _parts(self) -> list[dict[str, "ClassTree"]]:
        """The splits of the root, or of each chosen domain."""
        check_is_folder(self.root, self.kind)
        folders = self._folders(self.root)
        for folder in folders:
            check_stays_within(self.root, folder, self.kind)
        return [split_trees(folder, self.kind) for folder in folders]

    def _folders(self, root: Path) -> list[Path]:
        """The root itself, or the chosen domains in it."""
        if self.domain is None:
            check_needs_no_domain(root, self.kind)
            return [root]
        chosen = [self.domain] if isinstance(self.domain, str) else list(dict.fromkeys(self.domain))
        domains = domains_in(root, self.kind)
        unknown = [name for name in chosen if name not in domains]
        if unknown or not chosen:
            raise UserError(f"domain={', '.join(unknown) or '[]'}: {describe_domains(root, domains, self.kind)}")
        return [root / name for name in chosen]


@dataclass(frozen=True)
class ClassTree:
    """One folder of class folders."""

    folder: Path
    files: dict[str, list[str]]  # class name -> names of files


def split_trees(folder: Path, kind: FileKind) -> dict[str, ClassTree]:
    """The splits that `folder` holds; all of it is `train` where it holds classes."""
    if not holds_splits(folder, kind):
        return {"train": class_tree(folder, kind)}
    check_only_splits(folder, kind)
    trees = {name: class_tree(folder / name, kind) for name in SPLITS if (folder / name).is_dir()}
    if "test" not in trees and "val" in trees:
        trees["test"] = trees.pop("val")
    return trees


def class_tree(folder: Path, kind: FileKind) -> ClassTree:
    """The class folders in `folder`, each of which must hold a file."""
    files = {child.name: files_below(child, kind) for child in folders_in(folder)}
    if not files:
        raise UserError(f"{folder} holds no class folders; expected {kind.layouts}")
    empty = [name for name, found in files.items() if not found]
    if empty:
        raise UserError(f"{folder}: no {kind.noun} ({', '.join(kind.suffixes)}) in class {quoted(empty)}")
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
    paths = Files([name for files, _ in groups for name in files])
    labels = np.repeat([label for _, label in groups], [len(files) for files, _ in groups])
    return RawSplit(paths, labels.astype(np.int64))


def holds_splits(folder: Path, kind: FileKind) -> bool:
    """Whether the folders in `folder` are splits; a class may be called `train` too, but holds files itself."""
    train = folder / "train"
    others = any((folder / name).is_dir() for name in ("val", "test"))
    return train.is_dir() and (others or not holds_files(train, kind))


def domains_in(root: Path, kind: FileKind) -> list[str]:
    """The folders in `root` that hold class folders."""
    return [
        child.name
        for child in folders_in(root)
        if holds_splits(child, kind) or any(holds_files(grandchild, kind) for grandchild in folders_in(child))
    ]


def check_needs_no_domain(root: Path, kind: FileKind) -> None:
    """Refuse a root that holds domains where classes are expected."""
    if holds_splits(root, kind) or any(holds_files(child, kind) for child in folders_in(root)):
        return
    domains = domains_in(root, kind)
    if domains:
        raise UserError(
            f"which domain of {root}? {describe_domains(root, domains, kind)}; for example target.domain={domains[0]}"
        )


def check_only_splits(folder: Path, kind: FileKind) -> None:
    """Refuse files beside the splits: a `validation` passed over in silence would be missed by nobody."""
    others = [child.name for child in folders_in(folder) if child.name not in SPLITS and files_below(child, kind)]
    if others:
        raise UserError(f"{folder} holds {quoted(others)} beside train; expected {', '.join(SPLITS)} only")


def check_stays_within(root: Path, folder: Path, kind: FileKind) -> None:
    """Refuse links in `folder` that lead out of `root`, or nowhere, and what is named as a file and is none.

    Raises:
        UserError: with the first that is found.
    """
    inside = os.path.realpath(root)
    for entry in entries_below(folder):
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if os.path.commonpath([inside, target]) != inside:
                raise UserError(f"{entry.path}: a link to {target}, out of {root}; put a copy in its place")
        if kind.matches(entry.name) and not entry.is_file() and not entry.is_dir():
            raise UserError(f"{entry.path}: neither a file nor a folder; expected {kind.noun}")


def entries_below(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """All that is visible in `folder`, however deep; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    yield from entries_below(entry.path)


def check_is_folder(path: Path, kind: FileKind) -> None:
    """Refuse what is no folder, with the nearest name where the path stops existing."""
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f"path={path}: a file; expected a folder of {kind.noun}")
    raise UserError(f"path={path}: no such folder{nearest_path(path)}")


def describe_domains(root: Path, domains: list[str], kind: FileKind) -> str:
    """What there is to choose from."""
    return f"the domains are {', '.join(domains)}" if domains else f"{root} holds no domains; expected {kind.layouts}"


def folders_in(folder: Path) -> list[Path]:
    """The visible folders in `folder`, in the order of their names."""
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def holds_files(folder: Path, kind: FileKind) -> bool:
    """Whether files lie in `folder` itself."""
    return any(kind.matches(name) for name in os.listdir(folder))


def files_below(folder: Path, kind: FileKind) -> list[str]:
    """Every file in `folder`, however deep, in the order of their paths, folder by folder."""
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [(*here.split(os.sep), name) for name in names if kind.matches(name)]
    return [os.sep.join(parts) for parts in sorted(found)]


def quoted(names: Iterable[str]) -> str:
    """Quoted names, the first eight."""
    return listed(map(repr, names), most=8)
