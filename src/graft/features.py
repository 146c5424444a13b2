"""Features of a frozen backbone, computed once and trained from."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from graft.batch import BatchView, LabelledBatch
from graft.data.datasets import EpochSampler
from graft.data.domain import Domain


class Features(NamedTuple):
    """Backbone features of one split."""

    x: Tensor  # [n, d] float32
    y: Tensor  # [n] class indices


@torch.no_grad()
def extract(backbone: nn.Module, loader: Iterable[LabelledBatch], view: BatchView, device: torch.device) -> Features:
    """Features [n, d] of every sample of `loader`, in order, on the CPU.

    The backbone runs in eval mode under the evaluation view, so the features are a fixed function of the samples; its
    modes are put back afterwards.
    """
    modes = {module: module.training for module in backbone.modules()}
    backbone.to(device).eval()
    rows = [(backbone(view.evaluate(batch.x.to(device))).float().cpu(), batch.y) for batch in loader]
    for module, training in modes.items():
        module.training = training
    features, labels = zip(*rows, strict=True)
    return Features(torch.cat(features), torch.cat(labels))


class FeatureView:
    """Leaves cached features as they are."""

    def train(self, batch: LabelledBatch, generator: torch.Generator) -> LabelledBatch:
        """The batch itself."""
        return batch

    def evaluate(self, x: Tensor) -> Tensor:
        """The features [n, d] themselves."""
        return x


class FeatureDataset(Dataset[LabelledBatch]):
    """Rows of cached features; indexed by positions [n]."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features.y)

    def __getitem__(self, positions: np.ndarray) -> LabelledBatch:
        index = torch.from_numpy(positions)
        return LabelledBatch(self.features.x[index], self.features.y[index], index)


class FeatureDomain(LightningDataModule):
    """The train and val splits of a domain as features at the freeze boundary.

    It serves the same samples in the same order as the domain it was made from.
    """

    def __init__(self, domain: Domain, backbone: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.view = FeatureView()
        self.batch_size = domain.batch_size
        self.splits = {
            split: extract(backbone, domain.loader(split), domain.view, device)
            for split in ("train", "val")
            if domain.sizes[split]
        }
        self.begin(seed=0, first_epoch=0)

    def begin(self, seed: int, first_epoch: int, augment: bool = False) -> None:
        """Set the batch order of the fits that follow. Features are fixed views: there is nothing to augment."""
        self.seed, self.first_epoch = seed, first_epoch

    def train_dataloader(self) -> DataLoader[LabelledBatch]:
        """Shuffled as the domain itself would be."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[LabelledBatch] | list[DataLoader[LabelledBatch]]:
        """In order; nothing where the domain holds no val split."""
        return self._loader("val", shuffle=False) if "val" in self.splits else []

    def _loader(self, split: str, shuffle: bool) -> DataLoader[LabelledBatch]:
        dataset = FeatureDataset(self.splits[split])
        ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer and shuffle else (0, 1)
        sampler = EpochSampler(len(dataset), self.batch_size, self.seed, self.first_epoch, shuffle, *ranks)
        return DataLoader(dataset, sampler=sampler, batch_size=None)
