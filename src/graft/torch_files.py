"""PyTorch's own files, as far as they hold plain values and tensors: read without running what they say."""

import warnings
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch


class DamagedFileError(ValueError):
    """The file is damaged, or holds more than plain values and tensors."""


def load_plain(path: Path) -> Any:
    """The plain values and CPU tensors that `torch.save` wrote.

    PyTorch does not compare the checksums that it wrote beside each part of the file; here a part that does not match
    its own is damage, so that no value is read that was not written. Files of PyTorch before 1.6 have none.

    Raises:
        DamagedFileError: the file is empty, cut off, damaged or foreign, or would have to run code.
        OSError: it cannot be opened.
    """
    with path.open("rb"):
        pass  # a file that is missing is not one that is damaged
    try:
        if is_zipfile(path):
            with ZipFile(path) as parts:
                broken = parts.testzip()
            if broken is not None:
                raise DamagedFileError(f"the checksum of {broken} does not match")
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except DamagedFileError:
        raise
    except Exception as error:  # the reader raises whatever damage leads it to: IndexError, struct.error, ...
        raise DamagedFileError(str(error).partition("\n")[0] or "empty file") from error
