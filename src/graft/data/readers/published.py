"""Data sets of texts and sounds as their authors publish them, downloaded only when asked."""

import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path

import numpy as np
from torchvision.datasets.utils import download_url

from graft.data.class_folders import ClassTree, FileKind, files_below, folders_in, gather
from graft.data.downloads import REMEDY, not_downloaded
from graft.data.files import Files
from graft.data.readers.audio_folder import SOUNDS
from graft.data.readers.base import RawDataset, RawSplit, Unreadable, hash_splits
from graft.data.readers.text_folder import TEXTS, read_texts
from graft.data.readers.text_table import TextTable
from graft.data.versions import tree_version
from graft.errors import UserError, did_you_mean

FAILURES = (OSError, EOFError, RuntimeError, ValueError, HTTPException)  # of a download or of unpacking


@dataclass(frozen=True)
class PublishedSet:
    """A labelled set of texts or sounds, with the splits that its authors defined, in a folder of its name.

    Args:
        name: a key of `LAYOUTS`.
        path: folder that holds the folders of data sets.
        download: fetch it where its folder is not there.
    """

    name: str
    path: str | Path
    download: bool = False

    def version(self) -> Hashable:
        """Changes with the files below its folder."""
        return tree_version(self._folder)

    def read(self) -> RawDataset:
        """Read every split.

        Raises:
            UserError: no such set; its files are not there, or damaged; the download failed.
        """
        if self.name not in LAYOUTS:
            raise UserError(f"no data set {self.name!r}; {did_you_mean(self.name, LAYOUTS)}")
        layout, folder = LAYOUTS[self.name], self._folder
        if not folder.is_dir():
            if not self.download:
                raise UserError(f"{self.name} is not in {folder}; {REMEDY} ({layout.size})")
            try:
                fetch(layout, folder)
            except FAILURES as error:
                raise not_downloaded(self.name, folder, error) from error
        try:
            return layout.read(folder)
        except (UserError, OSError) as error:
            raise UserError(f"{self.name} is damaged in {folder}; remove it to fetch it anew ({error})") from error

    @property
    def _folder(self) -> Path:
        return Path(self.path).expanduser() / self.name


@dataclass(frozen=True)
class Source:
    """A file at an address, checked against its MD5 once it is here."""

    url: str
    md5: str


@dataclass(frozen=True)
class Layout:
    """Where a data set comes from, and how what lies in its folder then is read."""

    sources: tuple[Source, ...]
    size: str  # of the download, for people
    read: Callable[[Path], RawDataset]


def fetch(layout: Layout, folder: Path) -> None:
    """Download and unpack beside the folder, which is there once all is in it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as unfinished:
        content = Path(unfinished, folder.name)
        content.mkdir()
        for source in layout.sources:
            name = source.url.rpartition("/")[2]
            download_url(source.url, unfinished, name, source.md5)
            unpack(Path(unfinished, name), content)
        os.replace(content, folder)


def unpack(file: Path, folder: Path) -> None:
    """Put what is in an archive, or a file that is none, into the folder."""
    if file.suffix == ".zip":
        shutil.unpack_archive(file, folder)
    elif file.name.endswith(".tar.gz"):
        shutil.unpack_archive(file, folder, filter="data")
    else:
        shutil.move(file, folder)


def ag_news(folder: Path) -> RawDataset:
    """Rows of a class from 1 to 4, a title and a description, without names of the columns."""
    found = TextTable(folder, text=["1", "2"], label="0", header=False).read()
    return replace(found, class_names=("World", "Sports", "Business", "Sci/Tech"))


def imdb(folder: Path) -> RawDataset:
    """A file for each review, in `neg` and `pos` of `train` and `test`; those in `unsup` have no label."""
    class_names, broken = ("neg", "pos"), list[Unreadable]()
    trees = [class_tree_of(folder / "aclImdb" / split, class_names, TEXTS) for split in ("train", "test")]
    train, test = (read_texts(gather([tree], class_names), "utf-8", broken) for tree in trees)
    if not (len(train) and len(test)):
        raise UserError("no reviews in aclImdb/train, or none in aclImdb/test")
    fingerprint = hash_splits((train, test, None), class_names)
    return RawDataset(train, test, None, class_names, fingerprint, folder, "text", tuple(broken))


def class_tree_of(folder: Path, class_names: Iterable[str], kind: FileKind) -> ClassTree:
    """Certain class folders of a folder."""
    return ClassTree(folder, {name: files_below(folder / name, kind) for name in class_names})


def sst2(folder: Path) -> RawDataset:
    """Tables of GLUE, of which `dev` is our test split: the labels of its own are not published."""
    tables = folder / "SST-2"
    found = TextTable(tables / "train.tsv", test_path=tables / "dev.tsv", text="sentence", label="label").read()
    return replace(found, class_names=("negative", "positive"))


def speech_commands(folder: Path) -> RawDataset:
    """A folder for each word; two lists of files say which of them validate and which test, the others train."""
    class_names = tuple(word.name for word in folders_in(folder) if not word.name.startswith("_"))  # as for noise
    every = gather([class_tree_of(folder, class_names, SOUNDS)], class_names)
    labels = dict(zip(map(str, every.samples), every.labels, strict=True))
    listed = {name: files_of(folder, f"{name}_list.txt") for name in ("testing", "validation")}
    held_out = {file for files in listed.values() for file in files}
    if not labels or not held_out <= labels.keys():
        raise UserError(
            f"{len(held_out - labels.keys())} of {len(held_out)} listed files and {len(class_names)} words there"
        )

    def split(files: list[str]) -> RawSplit:
        return RawSplit(Files(files), np.array([labels[file] for file in files], np.int64))

    train = split([file for file in labels if file not in held_out])
    test, val = split(listed["testing"]), split(listed["validation"])
    fingerprint = hash_splits((train, test, val), class_names)
    return RawDataset(train, test, val, class_names, fingerprint, folder, "audio")


def files_of(folder: Path, name: str) -> list[str]:
    """The files that a list names."""
    return [str(folder / line) for line in (folder / name).read_text().split()]


_AG_NEWS = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv"

# Addresses and hashes as torchtext and torchaudio have them.
LAYOUTS = {
    "ag_news": Layout(
        (
            Source(f"{_AG_NEWS}/train.csv", "b1a00f826fdfbd249f79597b59e1dc12"),
            Source(f"{_AG_NEWS}/test.csv", "d52ea96a97a2d943681189a97654912d"),
        ),
        "31 MB",
        ag_news,
    ),
    "imdb": Layout(
        (
            Source(
                "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz", "7c2ac02c03563afcf9b574c7e56c153a"
            ),
        ),
        "84 MB",
        imdb,
    ),
    "sst2": Layout(
        (Source("https://dl.fbaipublicfiles.com/glue/data/SST-2.zip", "9f81648d4199384278b86e315dac217c"),),
        "7 MB",
        sst2,
    ),
    "speech_commands": Layout(
        (
            Source(
                "https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
                "6b74f3901214cb2c2934e98196829835",
            ),
        ),
        "2.4 GB",
        speech_commands,
    ),
}
