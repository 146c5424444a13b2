"""Test-time augmentation: the mean of what the network says of several views of an image."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graft.after.base import After, Finished
from graft.batch import LabelledBatch
from graft.data.augment import Augmentation
from graft.data.domain import Domain
from graft.data.modalities import make_view
from graft.errors import UserError
from graft.evaluation import evaluation_loader, predict, scores
from graft.features import FeatureView
from graft.models.network import Network
from graft.seeds import stable_seed
from graft.summary import flat_scores

NO_IMAGES = "it averages crops and mirror images, which texts and sounds have not; use after=temperature"


@dataclass(frozen=True)
class AveragedViews(After):
    """Averages the softmax over the evaluation view and random ones (Krizhevsky et al., NeurIPS 2012, section 4.1).

    Args:
        augmentation: what is random in a view.
        num_views: the evaluation view, and so many random ones that there are this many.
        flip: take the mirror image of each of them as well; None where the target's samples are no images.
        seed: what the views are drawn from.

    Raises:
        UserError: all views would be the same, images would be mixed, or there are none.
    """

    augmentation: Augmentation
    num_views: int = 8
    flip: bool | None = False
    seed: int = 0

    needs_val = False
    needs_start = False

    def __post_init__(self) -> None:
        how = self.augmentation
        if self.flip is None:
            raise UserError(f"after.tta: {NO_IMAGES}")
        if self.num_views < 1:
            raise UserError(f"after.tta.num_views={self.num_views}; expected 1 or more")
        if how.mixup or how.cutmix:
            raise UserError("after.tta.augmentation: a view is one image's own; leave mixup and cutmix out")
        if how.flip:
            raise UserError("after.tta.augmentation.flip: write after.tta.flip=true, which mirrors every view")
        if not self.flip and (self.num_views == 1 or not how.any):
            raise UserError(
                "after.tta: all views would be the same; give target.augmentation, or the views' own: "
                "after.tta.augmentation.crop_padding=2 with after.tta.num_views=8, or after.tta.flip=true"
            )
        if self.num_views > 1 and not how.any:
            raise UserError(
                f"after.tta.num_views={self.num_views}: without after.tta.augmentation there is 1 view to be mirrored; "
                "write after.tta.num_views=1, or say what is random: after.tta.augmentation.crop_padding=2"
            )

    def check(self, network: Network) -> None:
        """The network reads images.

        Raises:
            UserError: it reads something else.
        """
        if network.backbone.preprocessing.modality != "image":
            raise UserError(NO_IMAGES)

    def __call__(self, finished: Finished) -> dict[str, Any]:
        """`metrics` of the averaged predictions, and the number of `views` of each image."""
        domain, device = finished.target, finished.stage.training.device
        averaged = {split: self.log_probabilities(finished.network, domain, split, device) for split in finished.splits}
        metrics = flat_scores({split: scores(*found) for split, found in averaged.items()}, "target")
        return {"metrics": metrics, "views": self.num_views * (2 if self.flip else 1)}

    def log_probabilities(
        self, network: Network, domain: Domain, split: str, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Logarithm [n, k] of the class probabilities averaged over views, float64, and labels [n]."""
        found = [
            predict(network, self.views(domain, split, number, mirrored, device), FeatureView(), device)
            for number in range(self.num_views)
            for mirrored in ((False, True) if self.flip else (False,))
        ]
        each = torch.stack([logits.double().log_softmax(dim=1) for logits, _ in found])
        return each.logsumexp(dim=0) - math.log(len(found)), found[0][1]

    def views(
        self, domain: Domain, split: str, number: int, mirrored: bool, device: torch.device
    ) -> Iterator[LabelledBatch]:
        """The batches of a split with view 0, the evaluation view, or a random one [n, c, h, w] for each image."""
        assert domain.preprocessing is not None
        view = make_view(domain.preprocessing, self.augmentation if number else None, domain.num_classes)
        for index, batch in enumerate(evaluation_loader(domain, split)):
            seed = stable_seed(self.seed, split, number, index)
            batch = batch._replace(x=batch.x.to(device))
            x = view.train(batch, torch.Generator(device).manual_seed(seed)).x
            yield batch._replace(x=x.flip(-1) if mirrored else x)
