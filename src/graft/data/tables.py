"""Rows of CSV, TSV, JSON lines and parquet files, each with its line or with what is wrong with it."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.data.readers.base import Unreadable
from graft.errors import UserError, did_you_mean, listed

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
LONGEST_LINE = 2**22  # characters; a longer line is no text that a network reads
LONGEST_FIELD = 2**17  # characters, the limit of Python's csv module
LONGEST_NAME = 40  # characters of a column's name, in an error
UNDECODED = tuple(map(chr, range(0xDC80, 0xDD00)))  # what stands for bytes that are not of the encoding


@dataclass(frozen=True)
class Row:
    """One row by column."""

    line: int  # where it ends, counted from 1
    values: dict[str, Any]


@dataclass(frozen=True)
class TableFile:
    """A table in a file, whose kind its name says.

    Args:
        path: ends in .csv, .tsv, .jsonl or .parquet.
        encoding: of its text.
        header: whether the first line names the columns; otherwise they are called 0, 1, ...
    """

    path: Path
    encoding: str = "utf-8"
    header: bool = True

    def rows(self) -> Iterator[Row | Unreadable]:
        """Row after row; no more than one is held.

        Raises:
            UserError: the file is missing, or nothing of that kind.
        """
        kind = self.path.suffix.lower()
        if not self.path.is_file():
            raise UserError(f"path={self.path}: no such file")
        if kind == ".parquet":
            yield from self._parquet()
        elif kind == ".jsonl":
            yield from map(self._decoded, self._json_lines())
        elif kind in SUFFIXES:
            yield from map(self._decoded, self._separated("\t" if kind == ".tsv" else ","))
        else:
            raise UserError(f"path={self.path}: expected a file ending in {', '.join(SUFFIXES)}")

    def _lines(self) -> Iterator[str]:
        """Lines with their ends; bytes of another encoding are kept as what no text holds."""
        try:
            with self.path.open(encoding=self.encoding, errors="surrogateescape", newline="") as file:
                if self.encoding.lower().replace("_", "-") in ("utf-8", "utf8") and file.read(1) != "\ufeff":
                    file.seek(0)
                number = 1
                while line := file.readline(LONGEST_LINE + 1):
                    if len(line) > LONGEST_LINE:
                        raise UserError(f"{self.path}:{number}: a line of more than {LONGEST_LINE:,} characters")
                    yield line
                    number += 1
        except (LookupError, UnicodeError) as error:
            raise UserError(f"{self.path}: cannot be read as encoding={self.encoding} ({error})") from error
        except OSError as error:
            raise UserError(f"path={self.path}: cannot be read ({error.strerror})") from error

    def _separated(self, delimiter: str) -> Iterator[Row | Unreadable]:
        """Fields in double quotes hold delimiters and line ends; those of TSV files are as they are."""
        reader = csv.reader(self._lines(), strict=True)
        if delimiter == "\t":
            reader = csv.reader(self._lines(), delimiter=delimiter, quoting=csv.QUOTE_NONE)
        names: list[str] | None = None
        while True:
            begins = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Unreadable(self.path, explained(error), begins)
                continue
            if not fields:  # an empty line
                continue
            if names is None:
                names = fields if self.header else [str(number) for number in range(len(fields))]
                self._check_names(names)
                if self.header:
                    continue
            if len(fields) == len(names):
                yield Row(begins, dict(zip(names, fields, strict=True)))
            else:
                yield Unreadable(self.path, f"{counted(len(fields), 'field')} for {len(names)} columns", begins)

    def _check_names(self, names: Sequence[str]) -> None:
        twice = {name for name in names if names.count(name) > 1} if len(names) < 10_000 else set(names)
        if twice:
            raise UserError(f"{self.path}:1: columns must have names of their own; twice: {shown(sorted(twice))}")

    def _json_lines(self) -> Iterator[Row | Unreadable]:
        for number, line in enumerate(self._lines(), 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Unreadable(self.path, f"not JSON: {str(error).splitlines()[0]}", number)
                continue
            if isinstance(found, dict):
                yield Row(number, found)
            else:
                yield Unreadable(self.path, "not a JSON object", number)

    def _parquet(self) -> Iterator[Row | Unreadable]:
        try:
            from pyarrow import ArrowException, parquet
        except ImportError as error:
            raise UserError(f"path={self.path}: pyarrow is not installed; pip install 'graft[parquet]'") from error
        try:
            with parquet.ParquetFile(self.path) as file:
                number = 0
                for batch in file.iter_batches(batch_size=1024):
                    for values in batch.to_pylist():
                        number += 1
                        yield Row(number, values)
        except (ArrowException, OSError, ValueError) as error:
            raise UserError(f"path={self.path}: not a readable parquet file ({str(error).splitlines()[0]})") from error

    def _decoded(self, row: Row | Unreadable) -> Row | Unreadable:
        """The row, unless it holds bytes that are not of the encoding."""
        if isinstance(row, Row):
            for value in row.values.values():
                wrong = not_decoded(value) if isinstance(value, str) else None
                if wrong is not None:
                    return Unreadable(self.path, f"byte 0x{wrong:02x} is not {self.encoding}; set encoding", row.line)
        return row


def not_decoded(text: str) -> int | None:
    """The first byte in a text that is not of its file's encoding."""
    if text.isascii():
        return None
    return next((ord(letter) - 0xDC00 for letter in text if UNDECODED[0] <= letter <= UNDECODED[-1]), None)


def explained(error: csv.Error) -> str:
    """What is wrong with a row, where the csv module's words are short."""
    text = str(error)
    if "unexpected end of data" in text:
        return "a quote that opens here is never closed"
    if "field larger" in text:
        return f"a field of more than {LONGEST_FIELD:,} characters; is a quote never closed?"
    return text


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "field"), counted(2, "field")
    ('1 field', '2 fields')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shown(names: Iterable[str]) -> str:
    """Names of columns, not too long."""
    return listed((name[:LONGEST_NAME] for name in map(str, names)), most=8)


def find_column(path: Path, names: Sequence[str], asked: str | None, usual: Sequence[str], key: str) -> str:
    """The column that was asked for, or one with a usual name.

    Raises:
        UserError: there is none; it names the columns.
    """
    if asked is not None:
        if asked not in names:
            hint = did_you_mean(asked, [name[:LONGEST_NAME] for name in names][:20])
            raise UserError(f"{key}={asked}: {path} has no such column; {hint}")
        return asked
    lower = {name.strip().lower(): name for name in names}
    for name in usual:
        if name in lower:
            return lower[name]
    raise UserError(f"{path}: which column holds the {key}? set {key}=; the columns are {shown(names)}")
