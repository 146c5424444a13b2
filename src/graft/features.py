"""What a frozen prefix of the backbone makes of fixed views: computed once, kept in the store, trained from.

A prefix that a phase freezes is a fixed function, so its outputs can stand for the images wherever the views are fixed
too. They are found by the content hash of all that decides them, shared between runs, and kept within a limit.
"""

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from graft import __version__
from graft.batch import LabelledBatch, UnlabelledBatch, in_dtype
from graft.data.augment import Augmentation
from graft.data.datasets import NOTHING, BatchLoader, Done, EpochSampler
from graft.data.domain import Domain
from graft.data.modalities import make_view
from graft.data.threaded import in_order, num_cores
from graft.memory import Fitting, keep_freed_memory
from graft.models.adapters.base import adapter_settings
from graft.models.backbones.base import Backbone
from graft.models.weights import state_sha256
from graft.processes import in_all, num_standing
from graft.records.files import atomic_write_json, read_json
from graft.records.hashing import content_hash
from graft.records.store import Store
from graft.seeds import stable_seed

KIND = "features"
SHAPE, VALUES = "shape.json", "values.bin"
Features = dict[str, tuple[Tensor, ...]]  # split -> outputs [n, ...], one for each view


@dataclass(frozen=True)
class Inference:
    """How outputs are computed where no gradient is needed."""

    device: torch.device
    dtype: torch.dtype = torch.float32  # of the backbone's weights and inputs
    precision: str = "32"
    memory_format: str = "contiguous"  # of the backbone's weights
    batch_size: int | None = None  # None: the domain's own
    context: Callable[[], AbstractContextManager[None]] = field(default=nullcontext, compare=False)  # of the precision


@dataclass(frozen=True)
class Prefix:
    """The backbone's first `cut` layer groups, which the phase leaves as they are."""

    backbone: Backbone
    cut: int

    @classmethod
    def whole(cls, backbone: Backbone) -> "Prefix":
        """All of the backbone."""
        return cls(backbone, len(backbone.layer_groups))

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers of these groups, by group and name."""
        groups = list(self.backbone.layer_groups.items())[: self.cut]
        return {f"{name}.{key}": tensor for name, group in groups for key, tensor in group.state_dict().items()}


@contextmanager
def in_eval_mode(network: nn.Module, device: torch.device) -> Iterator[None]:
    """The network on the device and in eval mode; its modes are put back afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.to(device).eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def outputs(
    prefix: Prefix, domain: Domain, split: str, how: Inference, view: int | None = None
) -> Generator[Tensor, None, None]:
    """The prefix' outputs [n, ...] for batch after batch of a split, in order, on the CPU.

    The backbone runs in eval mode under the evaluation view, or under the augmented view of that number, which is drawn
    from the domain's split seed. So they are a fixed function of the samples.
    """
    return (batch for _, batch in outputs_of_share(0, 1, prefix, domain, split, how, view))


def outputs_of_share(
    rank: int, num: int, prefix: Prefix, domain: Domain, split: str, how: Inference, view: int | None = None
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Rows int64 [n] of the split with the outputs for them, of the batches that fall to one of `num` processes."""

    @torch.no_grad()
    def forward(x: Tensor) -> Tensor:
        with how.context():
            return prefix.backbone.forward_to(prefix.cut, x).cpu()

    keep_freed_memory()
    fitting = Fitting(forward)

    def work(numbered: tuple[int, LabelledBatch]) -> tuple[Tensor, Tensor]:
        index, batch = numbered
        return batch.positions, fitting(view_of(domain, batch, how, view, index))

    # What a precision's context sets may be the whole process's, such as the default float type.
    at_once = batches_at_once(how.device) if how.context is nullcontext else 1
    with in_eval_mode(prefix.backbone, how.device):
        batches = domain.every_nth(split, rank, num, how.batch_size)
        yield from in_order(work, zip(count(rank, num), batches, strict=False), at_once)


def batches_at_once(device: torch.device) -> int:
    """How many batches to predict at the same time: on a CPU, as many as keep all its cores busy.

    A small network's operations leave most cores idle, however many threads each may use; batches have nothing to wait
    for in one another. `OMP_NUM_THREADS`, by which parallel jobs share the cores, bounds this too.
    """
    if device.type != "cpu":
        return 1
    share = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    threads = min(num_cores(), int(share)) if share.isdigit() else num_cores()
    return max(1, threads // torch.get_num_threads())


def view_of(
    domain: Domain, batch: LabelledBatch, how: Inference, view: int | None = None, batch_index: int = 0
) -> Tensor:
    """The evaluation view [n, c, h, w] of a batch, or the augmented one of that number, as the backbone is given it."""
    batch = batch._replace(x=batch.x.to(how.device, non_blocking=True))
    if view is None:
        return in_dtype(domain.view.evaluate(batch.x), how.dtype)
    assert domain.preprocessing is not None
    seed = stable_seed(domain.rules.seed, "augmented view", view, batch_index)
    random = make_view(domain.preprocessing, domain.augmentation, domain.num_classes)
    return in_dtype(random.train(batch, torch.Generator(how.device).manual_seed(seed)).x, how.dtype)


def extract(prefix: Prefix, domain: Domain, split: str, how: Inference) -> Tensor:
    """The prefix' outputs [n, ...] for all samples of a split, computed now."""
    return torch.cat(list(outputs(prefix, domain, split, how)))


@dataclass(frozen=True)
class Samples:
    """Splits of a domain whose outputs are wanted, under the evaluation view or several augmented ones of `train`."""

    domain: Domain
    splits: Sequence[str]
    augmented_views: int = 0  # of train; 0: the evaluation view

    def views(self, split: str) -> Sequence[int | None]:
        """Numbers of the augmented views, or None alone for the evaluation view."""
        return range(self.augmented_views) if self.augmented_views and split == "train" else [None]

    def __len__(self) -> int:
        return sum(self.domain.sizes[split] * len(self.views(split)) for split in self.splits)


@dataclass(frozen=True)
class FeatureCache:
    """Outputs of frozen prefixes in the store, at most `limit` bytes of them; those longest unused make room.

    They are mapped into memory, not read: what is held there at a time is up to the system, which can drop it.
    """

    store: Store
    limit: int

    def get(
        self, prefix: Prefix, domain: Domain, splits: Sequence[str], how: Inference, augmented_views: int = 0
    ) -> Features | None:
        """What `get_all` gives for one domain."""
        found = self.get_all(prefix, [Samples(domain, splits, augmented_views)], how)
        return None if found is None else found[0]

    def get_all(self, prefix: Prefix, wanted: Sequence[Samples], how: Inference) -> list[Features] | None:
        """The prefix' outputs [n, ...] for all samples of each split, computed unless the store has them.

        There is one entry for each split and view. None where all of them together would exceed the limit.
        """
        weights, num_samples = state_sha256(prefix.state()), sum(map(len, wanted))
        makers = [_Maker(self, prefix, weights, samples, how, num_samples) for samples in wanted]
        try:
            return [maker.make_all() for maker in makers]
        except _ExceedsLimit:
            return None


class _ExceedsLimit(Exception):
    """The outputs of all samples take more than the cache may hold."""


@dataclass(frozen=True)
class _Maker:
    """Makes entries that belong together."""

    cache: FeatureCache
    prefix: Prefix
    weights: str  # hash of the prefix' state
    samples: Samples
    how: Inference
    num_samples: int  # of these and of those to be kept beside them

    @property
    def domain(self) -> Domain:
        """What the samples are of."""
        return self.samples.domain

    def make_all(self) -> Features:
        """The outputs of every split and view."""
        splits = self.samples.splits
        return {split: tuple(self.make(split, view) for view in self.samples.views(split)) for split in splits}

    def make(self, split: str, view: int | None) -> Tensor:
        """The outputs of one."""
        key = features_key(self.prefix, self.weights, self.domain, split, self.how, view)
        with self.cache.store.held(KIND, key, lambda folder: self._fill(folder, split, view)) as folder:
            return mapped(folder)

    def _fill(self, folder: Path, split: str, view: int | None) -> None:
        what = (self.prefix, self.domain, split, self.how, view)
        batches = outputs_of_share(0, 1, *what)
        rows, first = next(batches)
        one, limit = first[0].numel() * first.element_size(), self.cache.limit
        if one * self.num_samples > limit:
            batches.close()
            raise _ExceedsLimit
        self.cache.store.make_room(KIND, limit, one * self.domain.sizes[split])
        prepare(folder, [self.domain.sizes[split], *first.shape[1:]], first.dtype)
        if num_standing() == 1:
            write(folder, chain([(rows, first)], batches))
            return
        batches.close()
        self.prefix.backbone.cpu()  # to be sent
        for rank, written in enumerate(in_all(write_share, folder, *what)):
            if not written:
                write(folder, outputs_of_share(rank, num_standing(), *what))


def write_share(
    rank: int, folder: Path, prefix: Prefix, domain: Domain, split: str, how: Inference, view: int | None
) -> bool:
    """Write the outputs of the batches that fall to this process, unless it does not see the folder."""
    if not (folder / VALUES).is_file():  # another machine's disk
        return False
    if how.device.type == "cuda":
        how = replace(how, device=torch.device("cuda", torch.cuda.current_device()))
    write(folder, outputs_of_share(rank, num_standing(), prefix, domain, split, how, view))
    return True


def features_key(
    prefix: Prefix, weights: str, domain: Domain, split: str, how: Inference, view: int | None = None
) -> str:
    """The hash of all that decides a prefix' outputs, to the last bit; batches of another size may round otherwise."""
    return content_hash(
        {
            "versions": [__version__, torch.__version__],
            "backbone": [
                type(prefix.backbone).__qualname__,
                prefix.backbone.name,
                prefix.cut,
                *adapter_settings(prefix.backbone),
            ],
            "weights": weights,
            "data": domain.fingerprint,
            "split": split,
            "view": None if view is None else [view, asdict(domain.augmentation or Augmentation())],
            "batch_size": how.batch_size or domain.batch_size,
            "how": [how.device.type, str(how.dtype), how.precision, how.memory_format],
        }
    )


def prepare(folder: Path, shape: list[int], dtype: torch.dtype) -> None:
    """Make room for values [n, ...] that are written later."""
    atomic_write_json(folder / SHAPE, {"shape": shape, "dtype": str(dtype).removeprefix("torch.")})
    allocate(folder / VALUES, math.prod(shape) * dtype.itemsize)


def write(folder: Path, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Write batches [n, ...] to their rows [n], which follow one another, as they come."""
    values = mapped(folder, shared=True)
    for rows, batch in batches:
        values[int(rows[0]) : int(rows[-1]) + 1] = batch


def mapped(folder: Path, shared: bool = False) -> Tensor:
    """The values [n, ...] of a folder, mapped into memory; what is written to them reaches the file if `shared`."""
    description = read_json(folder / SHAPE)
    return map_file(folder / VALUES, description["shape"], getattr(torch, description["dtype"]), shared)


def allocate(path: Path, size: int) -> None:
    """A file of so many bytes that has its room on disk: where there is none left, writing to its map is fatal.

    Raises:
        OSError: there is no room.
    """
    with path.open("xb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except AttributeError:  # a system without
            file.truncate(size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def map_file(path: Path, shape: list[int], dtype: torch.dtype, shared: bool) -> Tensor:
    """A file as a tensor; what is written to it reaches the file where it is `shared`.

    Mapped by NumPy: a tensor of `torch.from_file` cannot be given to processes that are started for a fit.
    """
    values = np.memmap(path, np.uint8, mode="r+" if shared else "c")
    return torch.from_numpy(values).view(dtype).view(shape)


class FeatureView:
    """Leaves cached features as they are."""

    def train(self, batch: LabelledBatch, generator: torch.Generator) -> LabelledBatch:
        """The batch itself."""
        return batch

    def unmixed(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The features [n, ...] themselves."""
        return x

    def evaluate(self, x: Tensor) -> Tensor:
        """The features [n, ...] themselves."""
        return x


@dataclass(frozen=True)
class FeatureDataset(Dataset[LabelledBatch]):
    """Rows of cached features with their labels; indexed by positions int64 [n], to which n is added for each view."""

    x: tuple[Tensor, ...]  # [n, ...] for each view
    y: Tensor  # [n] class indices

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: np.ndarray) -> LabelledBatch:
        view, index = int(rows[0]) // len(self), torch.from_numpy(rows % len(self))
        return LabelledBatch(self.x[view][index], self.y[index], index)


@dataclass(frozen=True)
class UnlabelledFeatures(Dataset[UnlabelledBatch]):
    """Rows of cached features whose labels are not here to be looked at; indexed as `FeatureDataset` is."""

    x: tuple[Tensor, ...]  # [n, ...] for each view

    def __len__(self) -> int:
        return len(self.x[0])

    def __getitem__(self, rows: np.ndarray) -> UnlabelledBatch:
        view, index = int(rows[0]) // len(self), torch.from_numpy(rows % len(self))
        return UnlabelledBatch(self.x[view][index], index)


class ViewSampler(EpochSampler):
    """One view after the other, a view an epoch."""

    num_views = 1

    def __iter__(self) -> Iterator[np.ndarray]:
        view = (self.first_epoch + self.epoch) % self.num_views
        for positions in super().__iter__():
            yield positions + view * self.num_samples


def feature_loader(x: Tensor, y: Tensor, batch_size: int) -> BatchLoader:
    """Features [n, ...] with their labels [n] in order, in the batches that a domain's loader of this size makes."""
    return BatchLoader(FeatureDataset((x,), y), EpochSampler(len(y), batch_size, shuffle=False))


class FeatureDomain(LightningDataModule):
    """Splits of a domain as a frozen prefix leaves them.

    It serves the same samples in the same order as the domain it was made from, each epoch those of one view.
    """

    def __init__(self, domain: Domain, features: Features, cut: int) -> None:
        super().__init__()
        self.view = FeatureView()
        self.partly_labelled = False  # a domain with few labels is adapted to from its images
        self.cut = cut  # layer groups of the backbone that lie behind
        self.batch_size = domain.batch_size
        self.groups = domain.groups(domain.datasets["train"])
        self.datasets = {split: FeatureDataset(x, domain.datasets[split].labels) for split, x in features.items()}
        self.begin(seed=0, first_epoch=0)

    def begin(self, seed: int, first_epoch: int, augment: bool = False) -> None:
        """Set the batch order of the fits that follow. Features are fixed views: there is nothing to augment."""
        self.seed, self.first_epoch, self.done = seed, first_epoch, NOTHING

    def go_on(self, done: Done) -> None:
        """Let the fit that follows begin where it was left."""
        self.done = done

    def train_dataloader(self) -> BatchLoader:
        """Shuffled as the domain itself would be."""
        return self._loader(self.datasets["train"], shuffle=True)

    def unlabelled_loader(self, split: str, shuffle: bool = True, shared: bool = True) -> BatchLoader:
        """The features of a split alone, shuffled as the domain itself would be.

        Each rank has its share, or all of them where they are not `shared`.
        """
        return self._loader(UnlabelledFeatures(self.datasets[split].x), shuffle, shared)

    def some(self, split: str, rows: Tensor) -> Subset[UnlabelledBatch]:
        """Rows [n] of a split's first view, without their labels."""
        rows_at_once: Any = rows.numpy()  # an array is indexed by one
        return Subset(UnlabelledFeatures(self.datasets[split].x[:1]), rows_at_once)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """In order; nothing where the domain holds no val split."""
        return self._loader(self.datasets["val"], shuffle=False) if "val" in self.datasets else []

    def _loader(self, dataset: FeatureDataset | UnlabelledFeatures, shuffle: bool, shared: bool = True) -> BatchLoader:
        ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer and shuffle and shared else (0, 1)
        sampler = ViewSampler(len(dataset), self.batch_size, self.seed, self.first_epoch, shuffle, *ranks)
        sampler.num_views = len(dataset.x)
        sampler.groups = self.groups
        if shuffle and shared:
            sampler.go_on(self.done)
        return BatchLoader(dataset, sampler)
