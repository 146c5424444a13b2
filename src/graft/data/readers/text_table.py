"""Labelled texts in the rows of CSV, TSV, JSON lines or parquet files."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graft.data.readers.base import RawDataset, RawSplit, Unreadable, hash_splits
from graft.data.tables import SUFFIXES, Row, TableFile, find_column
from graft.data.versions import files_version
from graft.errors import UserError, listed, nearest_path

SPLITS = ("train", "test", "val")
TEXT_NAMES = ("text", "sentence", "review", "content", "document", "body", "comment", "tweet", "message", "title")
LABEL_NAMES = ("label", "class", "category", "sentiment", "target", "labels", "y", "topic", "stars", "rating")
MOST_CLASSES = 10_000


@dataclass(frozen=True)
class TextTable:
    """Reads a table of texts, or one for each split.

    - `path=reviews.csv`: all rows, of which a test split is held out, unless `test_path` or `val_path` is given;
    - `path=folder`: `train.csv`, and `test.csv` and `val.csv` where they are there;
    - `path=folder domain=books`: `books_train.csv`, `books_test.csv`, ..., or `books.csv`, or those of `folder/books`.

    Labels are words or numbers; classes are numbered in the order of their names, numbers by their size. White space
    around texts and labels is left out. Rows that cannot be read are named by file and line: wrong numbers of fields,
    quotes that are never closed, bytes of another encoding, empty texts or labels.

    Args:
        path: a file, or a folder of files.
        domain: which files of a folder.
        test_path, val_path: further files beside a file.
        text: the column, or columns, with the text; None takes one of a usual name (text, sentence, review, ...).
        label: the column with the label; None takes one of a usual name (label, class, category, sentiment, ...).
        encoding: of the files.
        header: whether the first line of CSV and TSV files names the columns; otherwise they are called 0, 1, ...
    """

    path: str | Path
    domain: str | None = None
    test_path: str | Path | None = None
    val_path: str | Path | None = None
    text: str | Sequence[str] | None = None
    label: str | None = None
    encoding: str = "utf-8"
    header: bool = True

    def version(self) -> Hashable:
        """Changes with the files."""
        return files_version(self._files().values())

    def read(self) -> RawDataset:
        """Read and check every row.

        Raises:
            UserError: no such file, another kind of file, no such column, or labels that do not go together.
        """
        files, broken = self._files(), []
        found: dict[str, list[tuple[str, str]]] = {}
        for split, path in files.items():
            rows = list(self._texts(path))
            broken += [row for row in rows if isinstance(row, Unreadable)]
            found[split] = [row for row in rows if not isinstance(row, Unreadable)]
            if not found[split]:
                first = f": {broken[0]}" if broken else ""
                raise UserError(f"{path}: no row with a text and a label{first}")
        class_names = classes_of([label for _, label in found["train"]], files["train"])
        splits = {name: numbered(rows, class_names, files[name]) for name, rows in found.items()}
        train, test, val = (splits.get(name) for name in SPLITS)
        assert train is not None
        fingerprint = hash_splits((train, test, val), class_names)
        root = files["train"].parent
        return RawDataset(train, test, val, class_names, fingerprint, root, "text", tuple(broken))

    def _files(self) -> dict[str, Path]:
        """The file of each split."""
        path = Path(self.path).expanduser()
        if path.is_dir():
            return self._files_in(path)
        if self.domain is not None:
            raise UserError(f"domain={self.domain}: path={path} is no folder{nearest_path(path)}")
        given = {"train": path, "test": self.test_path, "val": self.val_path}
        files = {name: Path(file).expanduser() for name, file in given.items() if file is not None}
        for name, file in files.items():
            if not file.is_file():
                key = "path" if name == "train" else f"{name}_path"
                raise UserError(f"{key}={file}: no such file{nearest_path(file)}")
        return files

    def _files_in(self, folder: Path) -> dict[str, Path]:
        others = [key for key in ("test_path", "val_path") if getattr(self, key) is not None]
        if others:
            raise UserError(f"{others[0]}: path={folder} is a folder, whose files say themselves what they are")
        stems = [""] if self.domain is None else [f"{self.domain}_", f"{self.domain}/"]
        for stem in stems:
            files = {split: file for split in SPLITS if (file := table_at(folder / f"{stem}{split}"))}
            if "train" in files:
                return files
        whole = None if self.domain is None else table_at(folder / self.domain)
        if whole is not None:
            return {"train": whole}
        there = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        wanted = "train.csv" if self.domain is None else f"{self.domain}_train.csv or {self.domain}.csv"
        raise UserError(f"path={folder}: holds no {wanted}, only {listed(there, 8) or 'no tables'}{self._hint(there)}")

    def _hint(self, names: Sequence[str]) -> str:
        domains = sorted({name.rpartition("_train.")[0] for name in names if "_train." in name})
        return f"; the domains are {listed(domains, 8)}" if domains else ""

    def _texts(self, path: Path) -> Iterator[tuple[str, str] | Unreadable]:
        """Text and label of each row."""
        columns: tuple[list[str], str] | None = None
        for row in TableFile(path, self.encoding, self.header).rows():
            if isinstance(row, Unreadable):
                yield row
                continue
            columns = columns or self._columns(path, list(row.values))
            yield text_and_label(path, row, *columns)

    def _columns(self, path: Path, names: list[str]) -> tuple[list[str], str]:
        label = find_column(path, names, self.label, LABEL_NAMES, "label")
        asked = [self.text] if self.text is None or isinstance(self.text, str) else list(self.text)
        return [find_column(path, names, name, TEXT_NAMES, "text") for name in asked], label


def table_at(stem: Path) -> Path | None:
    """The table of that name, whatever its kind; None where there is none."""
    files = (stem.with_name(stem.name + suffix) for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def text_and_label(path: Path, row: Row, texts: Sequence[str], label: str) -> tuple[str, str] | Unreadable:
    """What a row says, or what is wrong with it."""
    parts = [row.values.get(name) for name in texts]
    if not all(part is None or isinstance(part, str) for part in parts):
        return Unreadable(path, f"{', '.join(texts)} holds no text", row.line)
    text = " ".join(part.strip() for part in parts if part).strip()
    if not text:
        return Unreadable(path, "an empty text", row.line)
    value = as_label(row.values.get(label))
    return (text, value) if value else Unreadable(path, "no label", row.line)


def as_label(value: Any) -> str:
    """A word or number as a class is called; empty for anything else."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int | float) else ""


def classes_of(labels: Sequence[str], path: Path) -> tuple[str, ...]:
    """The classes, numbers by their size and words in their order.

    Raises:
        UserError: there are so many that they can be no classes.
    """
    names = set(labels)
    if len(names) > MOST_CLASSES or len(names) == len(labels) > 2:
        raise UserError(
            f"{path}: {len(names)} different labels in {len(labels)} rows; is that the column of the labels?"
        )
    if all(name.isascii() and name.lstrip("-").isdigit() and len(name) < 20 for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def numbered(rows: Sequence[tuple[str, str]], class_names: tuple[str, ...], path: Path) -> RawSplit:
    """Texts with the numbers of their labels.

    Raises:
        UserError: a label that no training row has.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    unknown = sorted({label for _, label in rows} - numbers.keys())
    if unknown:
        raise UserError(
            f"{path}: labels that no training row has: {listed(unknown, 8)}; those are {listed(class_names, 8)}"
        )
    return RawSplit([text for text, _ in rows], np.array([numbers[label] for _, label in rows], np.int64))
