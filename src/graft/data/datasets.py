"""Map-style datasets that are indexed by whole batches, and the sampler that says which."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from graft.batch import LabelledBatch, UnlabelledBatch
from graft.data.images import Images, JoinedImages
from graft.data.turns import in_turns
from graft.errors import UserError
from graft.seeds import stable_seed


class Done(NamedTuple):
    """How far a fit had come that goes on."""

    epochs: int = 0
    batches: int = 0  # of the epoch after these


NOTHING = Done()


@dataclass(frozen=True)
class LabelledImages(Dataset[LabelledBatch]):
    """Chosen images with their labels."""

    images: Images
    positions: Tensor  # int64 [n] in `images`
    labels: Tensor  # int64 [n]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def domains(self) -> Tensor | None:
        """Which of several data sets each sample is from, int64 [n]; None where there is one."""
        return self.images.domains(self.positions) if isinstance(self.images, JoinedImages) else None

    def __getitem__(self, indices: np.ndarray) -> LabelledBatch:
        """The batch of the samples `indices` [n]: uint8 [n, c, canvas, canvas], class indices [n], positions [n]."""
        index = torch.from_numpy(indices)
        positions, labels = (values.index_select(0, index) for values in (self.positions, self.labels))
        domains = self.images.domains(positions) if isinstance(self.images, JoinedImages) else None
        return LabelledBatch(self.images.canvases(positions), labels, index, domains)


@dataclass(frozen=True)
class UnlabelledImages(Dataset[UnlabelledBatch]):
    """Chosen images; their labels are not here to be looked at."""

    images: Images
    positions: Tensor  # int64 [n] in `images`

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, indices: np.ndarray) -> UnlabelledBatch:
        """The batch of the samples `indices` [n]: uint8 [n, c, canvas, canvas], positions [n]."""
        index = torch.from_numpy(indices)
        return UnlabelledBatch(self.images.canvases(self.positions.index_select(0, index)), index)


class BatchLoader(DataLoader[Any]):
    """A data loader whose batches are made in this process when they are asked for.

    So are torch's own without workers, but around small batches their machinery takes longer than the batch.
    """

    def __init__(self, dataset: Dataset[Any], sampler: Sampler[np.ndarray]) -> None:
        # The generator is its own, or torch would draw from the global one.
        super().__init__(dataset, sampler=sampler, batch_size=None, generator=torch.Generator())

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for indices in self.sampler:
            yield self.dataset[indices]


class Share(Sampler[np.ndarray]):
    """Each batch of a sampler whose number leaves the remainder `rank` when divided by `num`."""

    def __init__(self, sampler: Sampler[np.ndarray], rank: int, num: int) -> None:
        self.sampler, self.rank, self.num = sampler, rank, num

    def __iter__(self) -> Iterator[np.ndarray]:
        return islice(iter(self.sampler), self.rank, None, self.num)


class EpochSampler(Sampler[np.ndarray]):
    """The batches of an epoch, as positions int64 [n], for a `DataLoader` without batch size.

    Every sample comes exactly once, over all ranks together, in batches whose sizes differ by one at most, so there is
    no tiny last batch; every rank has as many batches as the others. The order is a function of the seed and the epoch.
    With `groups` that take turns, an epoch has as many samples, but not each of them once (see `in_turns`).

    Args:
        num_samples: n.
        batch_size: the most samples in a batch of one rank.
        seed: what the orders are drawn from.
        first_epoch: counted from the start of the stage, where the fit begins; the fit counts its own from 0.
        shuffle: whether to draw an order; otherwise samples come as they lie.
        rank: which of the processes this is.
        world_size: how many there are.
        groups: what each sample belongs to, int [n], once or at several levels, where every batch is to hold equally
            many of each.

    Raises:
        UserError: there are more processes than samples.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int = 0,
        first_epoch: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        groups: tuple[np.ndarray, ...] = (),
    ) -> None:
        if num_samples < world_size:
            raise UserError(f"{num_samples} samples cannot be shared among {world_size} devices")
        self.num_samples = num_samples
        self.seed = seed
        self.first_epoch = first_epoch
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.groups = groups
        self.epoch = 0
        self.skip = 0  # batches of the coming epoch that were taken before an interruption
        self.cycle = 0  # times that an epoch has been through the samples before
        # Full ranks before full batches: no rank may be left with an empty one.
        self.num_batches = min(-(-num_samples // (batch_size * world_size)), num_samples // world_size)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer with the epochs of this fit that lie behind."""
        self.epoch = epoch

    def go_on(self, done: Done) -> None:
        """Begin where a fit was left: loaders with workers ask for batches before the trainer tells the epoch."""
        self.epoch, self.skip = done

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[np.ndarray]:
        order = self._shuffled() if self.shuffle else np.arange(self.num_samples)
        batches = np.array_split(order, self.num_batches * self.world_size)[self.rank :: self.world_size]
        taken, self.skip = self.skip, 0
        yield from batches[taken:]

    def _shuffled(self) -> np.ndarray:
        epoch, again = self.first_epoch + self.epoch, ("cycle", self.cycle) if self.cycle else ()
        if self.groups:
            return in_turns(self.groups, stable_seed(self.seed, *again), epoch)
        return np.random.default_rng(stable_seed(self.seed, epoch, *again)).permutation(self.num_samples)
