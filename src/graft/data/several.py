"""Several labelled data sets as one domain."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NoReturn

import numpy as np
import torch

from graft.data.datasets import LabelledImages
from graft.data.domain import Domain
from graft.data.images import Images, JoinedImages
from graft.data.modalities import Randomness
from graft.data.preprocessing import Inputs
from graft.errors import UserError
from graft.records.hashing import content_hash


class SeveralDomains(Domain):
    """The union of several domains with the same classes, split by split; a batch says which part each image is of.

    What the data are, how they are split and how many of their labels are kept is each part's own; what batches are
    made of them is said here, for all.

    Args:
        name: what they are called together in records.
        parts: two or more, by name.
        shares: "equal": every batch of training holds equally many images of each part, so that those of small parts
            come more often; "proportional": every image comes once in an epoch.
        batch_size: samples in a batch of one device, of all parts together.
        num_workers, augmentation: as for one domain.
        balanced: whether a batch holds equally many images of each class, of each part where shares are equal.

    Raises:
        UserError: there is one part only, or a part has batches or an augmentation of its own.
    """

    def __init__(
        self,
        name: str,
        parts: Mapping[str, Domain],
        shares: Literal["equal", "proportional"] = "equal",
        batch_size: int | Literal["auto"] = 64,
        num_workers: int | None = None,
        augmentation: Randomness | None = None,
        balanced: bool = False,
    ) -> None:
        super().__init__(
            name,
            _ReadByParts(),
            batch_size=batch_size,
            num_workers=num_workers,
            augmentation=augmentation,
            balanced=balanced,
        )
        self.parts, self.shares = dict(parts), shares
        if len(parts) < 2:
            raise UserError(f"parts={','.join(parts) or '{}'}: expected two or more")
        for part_name, part in parts.items():
            for key, value in part.batch_settings.items():
                if value != self.batch_settings[key]:
                    raise UserError(f"parts.{part_name}.{key}: batches hold samples of all parts; set {key} for all")

    @property
    def batch_settings(self) -> dict[str, Any]:
        """What decides training batches beside the data, in plain types."""
        return super().batch_settings | {"shares": self.shares}

    def load(self, preprocessing: Inputs) -> None:
        """Load every part and join them; the fingerprint covers all of them in their order.

        Raises:
            UserError: a part cannot be used, or has other classes than the first.
        """
        parts = list(self.parts.values())
        wanted = parts[0].rendered(preprocessing)
        if self.preprocessing == wanted:
            return
        for part in parts:
            part.load(wanted)
        check_same_classes(parts)
        self.class_names, self.num_classes = parts[0].class_names, parts[0].num_classes
        self.datasets = {split: joined([part.datasets[split] for part in parts]) for split in parts[0].datasets}
        self.pool = joined([part.pool for part in parts])
        self.sizes = {split: len(dataset) for split, dataset in self.datasets.items()}
        self.fingerprint = content_hash({"parts": [part.fingerprint for part in parts]})
        self.fingerprint_of_any_split = content_hash({"parts": [part.fingerprint_of_any_split for part in parts]})
        self.preprocessing = wanted
        self.begin(seed=0, first_epoch=0)

    def training_samples(self, wanted: Inputs) -> list[Any]:
        """Those of every part, one after the other."""
        return [sample for part in self.parts.values() for sample in part.training_samples(wanted)]

    def groups(self, dataset: LabelledImages) -> tuple[np.ndarray, ...]:
        """What takes turns in batches: the parts where their shares are equal, and the classes where balanced."""
        domains = dataset.domains
        assert domains is not None
        return (*((domains.numpy(),) if self.shares == "equal" else ()), *super().groups(dataset))

    def _training_files(self) -> list[str]:
        """None: they are numbered through all parts."""
        return []

    def _num_workers(self, images: Images) -> int:
        assert isinstance(images, JoinedImages)
        return max(super(SeveralDomains, self)._num_workers(part) for part in images.parts)


@dataclass(frozen=True)
class _ReadByParts:
    """In the place of a reader: the parts have their own."""

    def read(self) -> NoReturn:
        raise AssertionError("each part reads for itself")


def joined(datasets: list[LabelledImages]) -> LabelledImages:
    """All samples of several datasets, one after the other."""
    images = JoinedImages(tuple(dataset.images for dataset in datasets))
    starts = accumulate((len(dataset.images) for dataset in datasets[:-1]), initial=0)
    positions = torch.cat([dataset.positions + start for dataset, start in zip(datasets, starts, strict=True)])
    return LabelledImages(images, positions, torch.cat([dataset.labels for dataset in datasets]))


def check_same_classes(parts: list[Domain]) -> None:
    """Parts of one source have the same classes in the same order.

    Raises:
        UserError: they have not.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.class_names == first.class_names:
            continue
        lacks = [
            f"{one.name} lacks {', '.join(missing[:10])}"
            for one, other in ((first, part), (part, first))
            if (missing := [name for name in other.class_names if name not in one.class_names])
        ]
        raise UserError(
            f"sources read together need the same classes in the same order: {first.name} has {first.num_classes}, "
            f"{part.name} has {part.num_classes}; {'; '.join(lacks) or 'their order differs'}"
        )
