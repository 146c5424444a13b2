"""Methods that adapt while they predict: images come once, in batches, without labels and without the source."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from graft.after.base import After, Finished
from graft.batch import in_dtype
from graft.data.augment import Augmentation
from graft.data.datasets import BatchLoader, EpochSampler, UnlabelledImages
from graft.data.domain import Domain
from graft.data.modalities import make_view
from graft.errors import UserError
from graft.evaluation import scores
from graft.models.network import Network
from graft.module import kept_generators, seed_global_generators
from graft.seeds import stable_seed
from graft.strategies.rules import has_statistics, is_norm
from graft.summary import flat_scores

Predictor = Callable[[Tensor], Tensor]  # canvases uint8 [n, c, h, w] of one batch -> logits [n, k]; it may learn from x


@dataclass(frozen=True)
class Deployed:
    """A network in use: a copy, in eval mode and with parameters that take no gradient, and what it was made from."""

    network: Network
    target: Domain
    training_domain: Domain  # whose images it was trained on: the source's where it was adapted without labels
    device: torch.device

    def view(self, x: Tensor) -> Tensor:
        """The evaluation view [n, c, size, size] of canvases uint8 [n, c, h, w], as the network is given it."""
        return in_dtype(self.target.view.evaluate(x), self.network.dtype)

    def random_view(self, x: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
        """A random view of canvases, otherwise as `view`; every draw is from `generator`."""
        assert self.target.preprocessing is not None
        view = make_view(self.target.preprocessing, augmentation, self.target.num_classes)
        return in_dtype(view.unmixed(x, generator), self.network.dtype)


@dataclass(frozen=True)
class Online(After):
    """Settings of a method that predicts a stream of images, and learns from those that it has predicted.

    The stream is a split of the target, each image once, shuffled by the seed, in batches whose sizes differ by one at
    most. `val`, where there is one, is a stream of its own that begins with the network as it was trained. Nobody
    sees a label before all is predicted.

    Args:
        batch_size: the most images in a batch.
        seed: of the order, and of what is drawn at random.
    """

    batch_size: int = 64
    seed: int = 0

    needs_val = False
    needs_start = False

    def __post_init__(self) -> None:
        if self.batch_size < self._smallest_batch:
            raise self.unfit("batch_size", f"{self._smallest_batch} or more")

    def unfit(self, name: str, expected: str) -> UserError:
        """What to say of a setting that makes no sense."""
        path = f"after.{type(self).__name__.lower()}.{name}"
        return UserError(f"{path}={getattr(self, name)!r}; expected {expected}")

    @property
    def _smallest_batch(self) -> int:
        return 1

    def begin(self, deployed: Deployed) -> Predictor:
        """What predicts one batch after the other; the deployed network is its own to change."""
        raise NotImplementedError

    def __call__(self, finished: Finished) -> dict[str, Any]:
        """`metrics` of what was predicted, with the stream's `batch_size` and `seed`."""
        found = {split: self.predictions(finished, split) for split in finished.splits}
        metrics = flat_scores({split: scores(*predicted) for split, predicted in found.items()}, "target")
        return {"metrics": metrics, "batch_size": self.batch_size, "seed": self.seed}

    def predictions(self, finished: Finished, split: str) -> tuple[Tensor, Tensor]:
        """Logits [n, k], float32 on the CPU, and labels [n], in the order of the stream."""
        device, target = finished.stage.training.device, finished.target
        network = deepcopy(finished.network).to(device).eval().requires_grad_(False)
        predict = self.begin(Deployed(network, target, finished.stage.domain, device))
        dataset, seed = target.datasets[split], stable_seed(self.seed, "stream", split)
        sampler = EpochSampler(len(dataset), self.batch_size, seed)
        logits, positions = [], []
        with kept_generators(device):
            seed_global_generators(seed, device)
            for batch in BatchLoader(UnlabelledImages(dataset.images, dataset.positions), sampler):
                logits.append(predict(batch.x.to(device)).detach().float().cpu())
                positions.append(batch.positions)
        return torch.cat(logits), dataset.labels[torch.cat(positions)]


@dataclass(frozen=True)
class OnlineByNorms(Online):
    """Settings of a method that normalises each batch by its own statistics and learns by gradient steps.

    Args:
        lr: learning rate of Adam, one step a batch.
    """

    lr: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.lr < float("inf"):
            raise self.unfit("lr", "a number above 0")

    @property
    def _smallest_batch(self) -> int:
        return 2  # one image has no variance

    def check(self, network: Network) -> None:
        """There are norm layers, with scales or shifts to learn.

        Raises:
            UserError: there are none.
        """
        if not norm_parameters(network):
            raise UserError(
                "it adapts the scales and shifts of norm layers, and this network has none; use a backbone with norm "
                "layers, such as backbone=resnet20"
            )


def norm_parameters(network: nn.Module) -> list[Parameter]:
    """Scales and shifts of all normalisation layers, each once."""
    owned = [p for module in network.modules() if is_norm(module) for p in module.parameters(recurse=False)]
    return list(dict.fromkeys(owned))


def normalise_by_batch(network: nn.Module) -> None:
    """Layers with running statistics use those of the batch instead; all else stays in its mode."""
    for module in network.modules():
        if has_statistics(module):
            module.training = True
