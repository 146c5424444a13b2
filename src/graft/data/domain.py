"""A domain: one class for source and target."""

import logging
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from graft.data.canvas_cache import CanvasCache
from graft.data.datasets import NOTHING, BatchLoader, Done, EpochSampler, LabelledImages, Share, UnlabelledImages
from graft.data.images import Images
from graft.data.label_space import LabelSpace
from graft.data.modalities import Randomness, check_modality, make_view, modality_of
from graft.data.preprocessing import Inputs
from graft.data.readers.base import RawDataset, RawSplit, Reader, Unreadable, file_names
from graft.data.shared import Decoded, shared
from graft.data.splits import SplitRules, split_samples
from graft.data.threaded import num_cores
from graft.errors import UserError, listed
from graft.records.hashing import content_hash

log = logging.getLogger(__name__)

MAX_WORKERS = 8  # more decode faster than one device trains
MOST_BROKEN = 100  # names of what cannot be read, in a message


class Rendering(Protocol):
    """How a domain's samples become what a backbone for samples of another kind takes, as sound becomes an image."""

    def for_backbone(self, wanted: Inputs) -> Inputs:
        """What samples of this domain go through for a backbone that wants these inputs; itself where it is that.

        Raises:
            UserError: the backbone takes nothing that they can be turned into.
        """


class Domain(LightningDataModule):
    """A labelled data set as a backbone wants to see it, split, with a label budget.

    `val` is split from the training samples, never from the test samples, unless the data come with a split of that
    name. The label budget is taken from what remains; it is exact, stratified, and nested in every larger one.

    Args:
        name: what it is called in records.
        reader: where the data come from.
        labels_per_class: exactly so many training samples of each class; None keeps all.
        fraction: share of each class' training samples; None keeps all.
        val_fraction: share of the training samples held out for validation.
        test_fraction: share held out for testing where the data come without a test split.
        split_seed: what splits and budgets are drawn from, and nothing else is.
        batch_size: samples in a batch of one device; "auto" is 0 until one is chosen (`with_batch_size`).
        num_workers: processes that load; None uses one a core where images are decoded or resized in every epoch anew,
            and none for images in memory or in the cache.
        augmentation: what is random in training; None, or with all parts off, trains on fixed views.
        balanced: whether every batch of training holds equally many samples of each class.
        skip_broken: leave out samples that cannot be read, and name them, instead of refusing.
        memory_limit_gib: samples that would take more as they are stored (images on their canvas, texts as token ids)
            are not kept in memory.
        cache: folder for the canvases of image files, which later epochs and runs read instead of decoding; None uses
            none, and decodes images that are not kept in memory in every epoch anew.
        cache_limit_gib: the most that this folder may hold; what was used least recently is removed. 0 uses no cache.
        rendering: what turns the samples into what a backbone for others takes; None gives them as they are.
    """

    def __init__(
        self,
        name: str,
        reader: Reader,
        labels_per_class: int | None = None,
        fraction: float | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        batch_size: int | Literal["auto"] = 64,
        num_workers: int | None = None,
        augmentation: Randomness | None = None,
        balanced: bool = False,
        skip_broken: bool = False,
        memory_limit_gib: float = 2.0,
        cache: str | Path | None = None,
        cache_limit_gib: float = 20.0,
        rendering: Rendering | None = None,
    ) -> None:
        super().__init__()
        if batch_size != "auto" and batch_size < 1:
            raise UserError(f"batch_size={batch_size}: expected a positive number")
        self.name = name
        self.reader = reader
        self.rules = SplitRules(labels_per_class, fraction, val_fraction, test_fraction, split_seed)
        self.batch_size = 0 if batch_size == "auto" else batch_size
        self.num_workers = num_workers
        self.augmentation = augmentation if augmentation is not None and augmentation.any else None
        self.balanced = balanced
        self.skip_broken = skip_broken
        self.memory_limit = memory_limit_gib * 2**30
        self.cache = (
            CanvasCache(Path(cache).expanduser(), cache_limit_gib * 2**30) if cache and cache_limit_gib else None
        )
        self.rendering = rendering
        self.preprocessing: Inputs | None = None
        self.label_space: LabelSpace | None = None  # beside that of the source it is adapted from (`aligned.align`)

    def with_batch_size(self, batch_size: int) -> "Domain":
        """The same domain, loaded or not, in other batches."""
        other = copy(self)
        other.batch_size = batch_size
        return other

    @property
    def partly_labelled(self) -> bool:
        """Whether a label budget leaves training samples without labels."""
        return self.rules.labels_per_class is not None or self.rules.fraction is not None

    @property
    def batch_settings(self) -> dict[str, Any]:
        """What decides training batches beside the data, in plain types."""
        augmentation = asdict(self.augmentation) if self.augmentation else None
        return {"batch_size": self.batch_size, "augmentation": augmentation, "balanced": self.balanced}

    def groups(self, dataset: LabelledImages) -> tuple[np.ndarray, ...]:
        """What takes turns in batches of a dataset of this domain's (`in_turns`): its classes, or nothing."""
        return (dataset.labels.numpy(),) if self.balanced else ()

    def load(self, preprocessing: Inputs) -> None:
        """Read, split and store the samples as the backbone wants them; nothing is read again for the same wish.

        Sets `class_names`, `num_classes`, `sizes` (samples in `train`, `val`, `test`), `pool` (the training samples
        that the label budget leaves out; all of them where there is none), `fingerprint`, a hash of data, splits,
        budget and preprocessing that neither augmentation nor batches change, and `fingerprint_of_any_split`, the same
        whatever the seed of the splits.

        Raises:
            UserError: what the user pointed at cannot be used, or is nothing that the backbone takes; all broken
                samples are named at once.
        """
        preprocessing = self.rendered(preprocessing)
        if self.preprocessing == preprocessing:
            return
        data = shared(self.reader, (preprocessing, self.memory_limit, self.cache), lambda: self._decode(preprocessing))
        skipped = self._refuse_or_skip(data, modality_of(preprocessing).noun)
        self._broken = {str(found.path) for found in data.broken}
        self._check_classes(data.splits, data.class_names)
        self.datasets, self.pool = self._split(data.splits, data.class_names)
        self.class_names = data.class_names
        self.num_classes = len(data.class_names)
        self.sizes = {split: len(dataset) for split, dataset in self.datasets.items()}
        what = {"data": data.fingerprint, "skipped": skipped, "preprocessing": preprocessing.as_dict()}
        self.fingerprint = content_hash(what | {"rules": asdict(self.rules)})
        self.fingerprint_of_any_split = content_hash(what | {"rules": asdict(replace(self.rules, seed=0))})
        self.preprocessing = preprocessing
        self.begin(seed=0, first_epoch=0)

    def fitted(self, wanted: Inputs) -> Inputs:
        """What a backbone wants, with what that learns from this domain's training samples: a tokenizer's pieces.

        Labels are not looked at, so samples beyond the label budget count too. Nothing is read where there is nothing
        to learn.
        """
        fit = modality_of(wanted).fit
        return wanted if fit is None else fit(wanted, lambda: self.training_samples(wanted))

    def training_samples(self, wanted: Inputs) -> list[Any]:
        """The training samples as they are read, in order, whether in the label budget or not."""
        raw = self._read(self.rendered(wanted))
        parts = split_samples(raw.train.labels, raw.class_names, self.rules, raw.val is None, raw.test is None)
        return [raw.train.samples[position] for position in parts.pool]

    def rendered(self, wanted: Inputs) -> Inputs:
        """What this domain's samples go through for a backbone that wants these inputs."""
        return wanted if self.rendering is None else self.rendering.for_backbone(wanted)

    def begin(self, seed: int, first_epoch: int, augment: bool = True) -> None:
        """Set the batch order of the fits that follow, and whether their views are random.

        Args:
            seed: what the orders are drawn from.
            first_epoch: epochs of the stage that lie behind as the fit begins.
            augment: False trains on the view that evaluation uses.
        """
        assert self.preprocessing is not None, "load first"
        self.seed, self.first_epoch, self.done = seed, first_epoch, NOTHING
        self.view = make_view(self.preprocessing, self.augmentation if augment else None, self.num_classes)

    def go_on(self, done: Done) -> None:
        """Let the fit that follows begin where it was left."""
        self.done = done

    def train_dataloader(self) -> DataLoader[Any]:
        """The shuffled training samples, of which each rank has its share."""
        return self._loader(self.datasets["train"], shuffle=True, shared=True)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """All validation samples in order, on every rank; an empty list where there are none."""
        return self.loader("val") if self.sizes["val"] else []

    def test_dataloader(self) -> DataLoader[Any]:
        """All test samples in order."""
        return self.loader("test")

    def loader(self, split: str, shuffle: bool = False, batch_size: int | None = None) -> DataLoader[Any]:
        """All samples of `train`, `val` or `test`, the same on every rank; in the domain's own batches by default."""
        return self._loader(self.datasets[split], shuffle, shared=False, batch_size=batch_size)

    def every_nth(self, split: str, rank: int, num: int, batch_size: int | None = None) -> DataLoader[Any]:
        """Of the batches of `loader`, unshuffled, one in `num`: those that are this rank's when all are shared out."""
        dataset = self.datasets[split]
        sampler = EpochSampler(len(dataset), batch_size or self.batch_size, shuffle=False)
        return self._load(dataset, Share(sampler, rank, num))

    def unlabelled_loader(self, split: str, shuffle: bool = True, shared: bool = True) -> DataLoader[Any]:
        """Samples without labels; those of `train` are the ones outside the label budget.

        Each rank has its share, or all of them where they are not `shared`.
        """
        dataset = self.pool if split == "train" else self.datasets[split]
        return self._loader(UnlabelledImages(dataset.images, dataset.positions), shuffle, shared)

    def training_names(self, index: torch.Tensor, unlabelled: bool = False) -> list[str]:
        """What training samples are called, at positions [n] of the split: files below the data's root, or numbers.

        The data are read again for that.
        """
        samples = self.pool if unlabelled else self.datasets["train"]
        positions = samples.positions[index].tolist()
        assert self.preprocessing is not None, "load first"
        files, noun = self._training_files(), modality_of(self.preprocessing).noun
        return [files[position] if files else f"{noun} {position}" for position in positions]

    def _training_files(self) -> list[str]:
        """The names of all training images that can be read; none where they are no files."""
        raw = self.reader.read()
        readable = [Path(name) for name in file_names(raw.train.samples) if name not in self._broken]
        return [(path.relative_to(raw.root) if raw.root else path).as_posix() for path in readable]

    def with_all_images(self) -> "Domain":
        """The same domain with all of its training samples in `train`, whether in the label budget or not."""
        if not self.partly_labelled:
            return self
        other, few = copy(self), self.datasets["train"]
        positions, order = torch.cat([few.positions, self.pool.positions]).sort()
        whole = LabelledImages(few.images, positions, torch.cat([few.labels, self.pool.labels])[order])
        other.datasets = self.datasets | {"train": whole}
        other.sizes = self.sizes | {"train": len(whole)}
        return other

    def _loader(self, dataset: Any, shuffle: bool, shared: bool, batch_size: int | None = None) -> DataLoader[Any]:
        ranks = (self.trainer.global_rank, self.trainer.world_size) if shared and self.trainer else (0, 1)
        groups = self.groups(dataset) if shuffle and isinstance(dataset, LabelledImages) else ()
        sampler = EpochSampler(
            len(dataset), batch_size or self.batch_size, self.seed, self.first_epoch, shuffle, *ranks, groups
        )
        if shuffle and shared:
            sampler.go_on(self.done)
        return self._load(dataset, sampler)

    def _load(self, dataset: Any, sampler: Sampler[np.ndarray]) -> DataLoader[Any]:
        num_workers = self._num_workers(dataset.images)
        if num_workers == 0:
            return BatchLoader(dataset, sampler)
        # The generator is its own, or the loader would draw from the global one.
        return DataLoader(
            dataset, sampler=sampler, batch_size=None, num_workers=num_workers, generator=torch.Generator()
        )

    def _num_workers(self, images: Images) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return min(num_cores(), MAX_WORKERS) if images.made_anew else 0

    def _read(self, preprocessing: Inputs) -> RawDataset:
        raw = self.reader.read()
        check_modality(self.name, raw, preprocessing)
        return raw

    def _decode(self, preprocessing: Inputs) -> Decoded:
        raw, open_split = self._read(preprocessing), modality_of(preprocessing).open
        num_samples = sum(len(split) for split in raw.splits.values())
        keep = num_samples * preprocessing.num_bytes <= self.memory_limit
        splits: dict[str, tuple[Images, np.ndarray]] = {}
        broken = list(raw.broken)
        for name, split in raw.splits.items():
            images, unreadable = open_split(split, preprocessing, keep, self.cache, f"{raw.fingerprint} {name}")
            splits[name] = (images, labels_of_readable(split, unreadable))
            broken += unreadable
        return Decoded(raw.class_names, raw.fingerprint, raw.root, splits, broken)

    def _refuse_or_skip(self, data: Decoded, noun: str) -> list[str]:
        """The names of the samples that are left out; `noun` is what one is called."""
        broken, root = data.broken, data.root
        if not broken:
            return []
        names = [found.place(found.path.relative_to(root) if root else found.path) for found in broken]
        nouns = noun if len(broken) == 1 else f"{noun}s"
        each = [f"{name} ({found.reason})" for name, found in zip(names, broken, strict=True)]
        if not self.skip_broken:
            raise UserError(
                f"{self.name}: {len(broken)} {nouns} cannot be read; skip_broken=true leaves out such {noun}s: "
                f"{listed(each, MOST_BROKEN)}"
            )
        log.warning(
            *("%s: left out %d %s that cannot be read: %s", self.name, len(broken), nouns, listed(each, MOST_BROKEN))
        )
        return names

    def _check_classes(self, splits: dict[str, tuple[Images, np.ndarray]], class_names: tuple[str, ...]) -> None:
        """Refuse classes without training samples, and samples of classes that are not trained."""
        if len(class_names) < 2:
            raise UserError(f"{self.name}: expected two classes or more, found {len(class_names)}")
        counts = np.bincount(splits["train"][1], minlength=len(class_names))
        empty = [repr(name) for name, count in zip(class_names, counts, strict=True) if count == 0]
        if empty:
            raise UserError(f"{self.name}: no training samples of class {', '.join(empty)}")
        for split, (_, labels) in splits.items():
            if len(labels) and labels.max() >= len(class_names):
                raise UserError(
                    f"{self.name}: {split} holds the label {labels.max()}, but there are {len(class_names)} classes"
                )

    def _split(
        self, splits: dict[str, tuple[Images, np.ndarray]], class_names: tuple[str, ...]
    ) -> tuple[dict[str, LabelledImages], LabelledImages]:
        """The three splits that are served, and the training samples that are taken to have no labels."""
        images, labels = splits["train"]
        parts = split_samples(labels, class_names, self.rules, "val" not in splits, "test" not in splits)

        def own_or_held_out(name: str, held_out: np.ndarray) -> LabelledImages:
            return select(*splits[name]) if name in splits else select(images, labels, held_out)

        datasets = {
            "train": select(images, labels, parts.train),
            "val": own_or_held_out("val", parts.val),
            "test": own_or_held_out("test", parts.test),
        }
        unlabelled = np.setdiff1d(parts.pool, parts.train) if self.partly_labelled else parts.pool
        return datasets, select(images, labels, unlabelled)


def select(images: Images, labels: np.ndarray, positions: np.ndarray | None = None) -> LabelledImages:
    """The samples at `positions`, all by default."""
    positions = np.arange(len(labels)) if positions is None else positions
    return LabelledImages(images, torch.from_numpy(positions), torch.from_numpy(labels[positions]))


def labels_of_readable(split: RawSplit, unreadable: list[Unreadable]) -> np.ndarray:
    """The labels [n] of the samples that are left."""
    if not unreadable:
        return split.labels
    left_out = {found.path for found in unreadable}
    return split.labels[[path not in left_out for path in split.samples]]
