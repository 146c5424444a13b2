"""What label-free scores look at: outputs for a fixed part of the target's and of the source's held-out images."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from graft.adaptation.selection import Evidence, label_free_scores
from graft.batch import BatchView, UnlabelledBatch, in_dtype
from graft.data.datasets import UnlabelledImages
from graft.data.domain import Domain
from graft.features import FeatureDomain
from graft.models.network import Network
from graft.regularisers.base import frozen_copy
from graft.seeds import stable_seed

IMAGES_AT_ONCE = 128
Images = UnlabelledImages | Subset[UnlabelledBatch]  # or what a frozen prefix of the backbone makes of them


class Judge:
    """Scores states of a network without a label of the target.

    It has a network of its own, in float32 and eval mode, and draws nothing: training goes on as if it were not there.

    Args:
        network: of the kind whose states are scored, with all that these leave out.
        source: its validation images are looked at, with their labels.
        target: its training images are looked at, without.
        num_images: the most of each.
        seed: what they are drawn from.
        device: where the network runs.
        kept: what layer groups that all states share make of these images of the source and the target.
    """

    def __init__(
        self,
        network: Network,
        source: Domain,
        target: Domain,
        num_images: int,
        seed: int,
        device: torch.device,
        kept: Sequence[FeatureDomain] = (),
    ) -> None:
        self.network = frozen_copy(network, network.state_dict()).float().to(device)
        self.device = device
        val, pool = source.datasets["val"], target.pool
        of_source = some_of(len(val), num_images, stable_seed(seed, "selection", "source"))
        of_target = some_of(len(pool), num_images, stable_seed(seed, "selection", "target"))
        self.source_y = val.labels[of_source]
        self.source: Images = UnlabelledImages(val.images, val.positions[of_source])
        self.target: Images = UnlabelledImages(pool.images, pool.positions[of_target])
        self.source_view: BatchView = source.view
        self.target_view: BatchView = target.view
        self.cut = 0
        if kept:
            self.source = kept[0].some("val", of_source) if len(val) else self.source
            self.target = kept[1].some("train", of_target)
            self.source_view, self.target_view = (side.view for side in kept)
            self.cut = kept[0].cut

    def __call__(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        """The scores (`label_free_scores`) of a state, which may leave out what is as in the network it was made of."""
        self.network.load_state_dict(self.network.state_dict() | dict(state))
        target = self._outputs(self.target, self.target_view)
        source = self._outputs(self.source, self.source_view)
        return label_free_scores(Evidence(*target, *source, self.source_y))

    @torch.no_grad()
    def _outputs(self, images: Images, view: BatchView) -> tuple[Tensor, Tensor]:
        """Logits [n, k] and features [n, d] of the evaluation view, on the CPU."""
        features = [torch.zeros(0, self.network.mapping.num_outputs)]
        for positions in np.array_split(np.arange(len(images)), -(-len(images) // IMAGES_AT_ONCE) or 1):
            if len(positions):
                x = in_dtype(view.evaluate(images[positions].x.to(self.device)), torch.float32)
                features.append(self.network.features(x, self.cut).cpu())
        together = torch.cat(features)
        return self.network.head(together.to(self.device)).cpu(), together


def some_of(total: int, most: int, seed: int) -> Tensor:
    """At most so many of `total` positions, drawn without repetition, in order."""
    return torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(total)[:most]))
