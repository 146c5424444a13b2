"""Labelled source and a target without labels, or with few, fed together."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any, Protocol

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from graft.batch import PairedBatch
from graft.data.datasets import NOTHING, Done, EpochSampler
from graft.seeds import stable_seed


class Side(Protocol):
    """One of the two domains, or what a frozen prefix of the backbone makes of it."""

    trainer: Any
    view: Any

    @property
    def partly_labelled(self) -> bool:
        """Whether some training samples have labels and others not."""

    def begin(self, seed: int, first_epoch: int, augment: bool = ...) -> None:
        """Set the order and the views of the fit that follows."""

    def go_on(self, done: Done) -> None:
        """Let it begin where it was left."""

    def train_dataloader(self) -> DataLoader[Any]:
        """The shuffled training samples with their labels."""

    def unlabelled_loader(self, split: str) -> DataLoader[Any]:
        """Those without, shuffled."""

    def val_dataloader(self) -> Any:
        """The validation samples in order."""


class PairedData(LightningDataModule):
    """Batches of the source with their labels beside batches of the target's training images without.

    Images in the target's label budget come in batches of their own, with labels; without a budget, no image of the
    target has one. An epoch is one pass over whichever has most batches; the others are gone through again, in another
    order each time. Validation samples are the source's: the target has no labels to spare for it.

    Args:
        source, target: loaded, each with a batch size of its own; both images, or both features of one prefix.
        source_free: leave out the source's images.
    """

    def __init__(self, source: Side, target: Side, source_free: bool) -> None:
        super().__init__()
        self.source, self.target, self.source_free = source, target, source_free

    def begin(self, seed: int, first_epoch: int, augment: bool = True) -> None:
        """Set the orders and views of the fit that follows, as `Domain.begin` does for one domain."""
        self.done = NOTHING
        self.source.begin(stable_seed(seed, "source"), first_epoch, augment)
        self.target.begin(stable_seed(seed, "target"), first_epoch, augment)

    def go_on(self, done: Done) -> None:
        """Let the fit that follows begin where it was left; the loaders of the domains skip what their pairs do."""
        self.done = done
        for side in (self.source, self.target):
            side.go_on(Done(done.epochs))

    @property
    def view(self) -> Any:
        """Of the source's images."""
        return self.source.view

    def train_dataloader(self) -> "PairedLoader":
        """Pairs of batches; each rank has its share of both domains."""
        self.source.trainer = self.target.trainer = self.trainer
        source = None if self.source_free else self.source.train_dataloader()
        labelled = self.target.train_dataloader() if self.target.partly_labelled else None
        loader = PairedLoader(source, self.target.unlabelled_loader("train"), labelled)
        loader.skip = self.done.batches
        return loader

    def val_dataloader(self) -> Any:
        """The source's validation samples."""
        return self.source.val_dataloader()


class PairedLoader(DataLoader[Any]):
    """Loaders side by side until the longest one ends; the others start again whenever they end before."""

    def __init__(
        self, source: DataLoader[Any] | None, target: DataLoader[Any], labelled: DataLoader[Any] | None = None
    ) -> None:
        samplers = [loader.sampler for loader in (source, target, labelled) if loader is not None]
        # The generator is its own, or torch would draw from the global one.
        super().__init__(target.dataset, sampler=_Together(samplers), batch_size=None, generator=torch.Generator())
        self.loaders = source, target, labelled
        self.skip = 0  # batches of the coming epoch that were taken before an interruption

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[PairedBatch]:  # type: ignore[override]
        num, taken, self.skip = len(self), self.skip, 0
        batches = (repeat(None, num) if loader is None else cycled(loader, num, taken) for loader in self.loaders)
        yield from map(PairedBatch, *batches)


class _Together(Sampler[Any]):
    """What the trainer tells the epoch; it has as many batches as the longest of its samplers."""

    def __init__(self, samplers: list[Any]) -> None:
        self.samplers = samplers

    def set_epoch(self, epoch: int) -> None:
        for sampler in self.samplers:
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return max(map(len, self.samplers))

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a paired loader asks its loaders")


def cycled(loader: DataLoader[Any], num_batches: int, given: int = 0) -> Iterator[Any]:
    """So many batches of a loader that is gone through as often as needed, in another order each time.

    The first `given` are left out.
    """
    sampler = loader.sampler
    assert isinstance(sampler, EpochSampler)
    while given < num_batches:
        sampler.cycle, sampler.skip = divmod(given, len(sampler))
        for batch in loader:
            yield batch
            given += 1
            if given == num_batches:
                break
    sampler.cycle = 0
