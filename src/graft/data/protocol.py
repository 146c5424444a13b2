"""What a published protocol does to a data set as it is read: a margin around its images, its splits taken together."""

from pathlib import Path

import numpy as np

from graft.data.readers.base import RawSplit
from graft.errors import UserError


def by_protocol(splits: dict[str, RawSplit], margin: int = 0, pool_splits: bool = False) -> dict[str, RawSplit]:
    """The splits of a data set by name, as a protocol has them.

    Args:
        splits: as they are stored.
        margin: black pixels put around every image, on each side. Three around the 16 x 16 of USPS let digits fill as
            much of an image as MNIST's do, whose box of 20 pixels lies within 28.
        pool_splits: whether all samples become one split `train`, from which a domain holds test samples out anew.

    Raises:
        UserError: `margin` is negative, or the samples are files.
    """
    if margin < 0:
        raise UserError(f"margin={margin}: expected a number of pixels from 0")
    if margin:
        splits = {name: _with_margin(split, margin) for name, split in splits.items()}
    return {"train": _pooled(list(splits.values()))} if pool_splits else splits


def _with_margin(split: RawSplit, margin: int) -> RawSplit:
    if not isinstance(split.samples, np.ndarray):
        raise UserError(f"margin={margin}: this data set is of image files; expected 0, a margin is for arrays alone")
    sides = [(0, 0), (margin, margin), (margin, margin), (0, 0)]
    return RawSplit(np.pad(split.samples, sides[: split.samples.ndim]), split.labels)


def _pooled(splits: list[RawSplit]) -> RawSplit:
    labels = np.concatenate([split.labels for split in splits])
    if all(isinstance(split.samples, np.ndarray) for split in splits):
        return RawSplit(np.concatenate([split.samples for split in splits]), labels)
    return RawSplit([Path(sample) for split in splits for sample in split.samples], labels)
