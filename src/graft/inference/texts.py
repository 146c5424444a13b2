"""Texts that a trained network is used on: files, folders of them, rows of tables, lines."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from graft.data.readers.base import Unreadable
from graft.data.readers.text_folder import TEXTS, read_text
from graft.data.readers.text_table import TEXT_NAMES
from graft.data.tables import SUFFIXES, TableFile, find_column
from graft.data.texts import TextPreprocessing
from graft.errors import UserError
from graft.inference.images import named_files, printable


def texts_at(
    path: Path, refuse: Callable[[Unreadable], None], pass_over: Callable[[Path], None]
) -> Iterator[tuple[str, str | Path]]:
    """Names and texts at a path: the file, the rows of a table, or all text files in a folder, in order.

    Args:
        path: need not exist; a file is taken for a text unless its name is that of a table, whose rows are called
            after their lines.
        refuse: is told of rows that cannot be read.
        pass_over: is told of files in folders whose names are not those of texts.
    """
    if path.is_dir():
        yield from named_files(path, TEXTS, pass_over)
    elif path.suffix.lower() in SUFFIXES:
        yield from _rows(path, refuse)
    else:
        yield printable(path), path


def _rows(path: Path, refuse: Callable[[Unreadable], None]) -> Iterator[tuple[str, str]]:
    column = ""
    try:
        for row in TableFile(path).rows():
            if isinstance(row, Unreadable):
                refuse(row)
                continue
            names = list(row.values)
            column = column or (names[0] if len(names) == 1 else find_column(path, names, None, TEXT_NAMES, "text"))
            text = row.values.get(column)
            if isinstance(text, str) and text.strip():
                yield f"{printable(path)}:{row.line}", text.strip()
            else:
                refuse(Unreadable(path, "an empty text", row.line))
    except UserError as error:
        refuse(Unreadable(path, str(error)))


def token_ids(source: str | Path, preprocessing: TextPreprocessing) -> np.ndarray | Unreadable:
    """int32 [t], as a domain stores it."""
    text = read_text(source) if isinstance(source, Path) else source
    if isinstance(text, Unreadable):
        return text
    [ids] = preprocessing.tokens([text]).numpy()
    return np.asarray(ids)


def random_tokens(preprocessing: TextPreprocessing, num: int, generator: Generator) -> Tensor:
    """Token ids int32 [n, t], the second half of every other text padding."""
    shape = (num, preprocessing.size)
    ids = torch.randint(1, preprocessing.tokenizer.num_ids, shape, dtype=torch.int32, generator=generator)
    ids[1::2, (preprocessing.size + 1) // 2 :] = 0
    return ids


class WholeNumbers(nn.Module):
    """Token ids int32 [n, t] as the network is given them, int64."""

    def __init__(self, preprocessing: TextPreprocessing) -> None:
        super().__init__()

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [n, t]."""
        return tokens.long()
