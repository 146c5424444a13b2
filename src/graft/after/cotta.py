"""Continual test-time adaptation by an averaged teacher, averaged views and weights put back at random."""

import math
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from graft.after.online import Deployed, OnlineByNorms, Predictor, normalise_by_batch
from graft.data.augment import Augmentation
from graft.errors import UserError
from graft.models.network import Network
from graft.regularisers.base import full_precision
from graft.regularisers.bi_tuning import averaged, follow
from graft.seeds import stable_seed

VIEWS = Augmentation(crop_padding=2, brightness=0.2, contrast=0.2)


def teaching_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean over n of -sum_k p'_k log p_k, a scalar, for logits [n, k] and the teacher's log probabilities [n, k].

    Wang et al., "Continual test-time domain adaptation", CVPR 2022, equation 1.
    """
    return -(teacher.exp() * log_softmax(full_precision(logits), dim=1)).sum(dim=1).mean()


@torch.no_grad()
def restore(network: Network, start: dict[str, Tensor], probability: float, generator: torch.Generator) -> None:
    """Put each scalar of the parameters back to its start with this probability.

    Wang et al., CVPR 2022, equations 7 and 8.
    """
    for name, parameter in network.named_parameters():
        mask = torch.rand(parameter.shape, generator=generator, device=parameter.device) < probability
        parameter.copy_(torch.where(mask, start[name], parameter))


@dataclass(frozen=True)
class CoTTA(OnlineByNorms):
    """All weights learn from a teacher, an average of the network, which also gives the predictions.

    Wang et al., CVPR 2022. Where the network as trained is unsure of a batch (the mean of its largest probabilities is
    below `confidence`), the teacher's prediction is the mean over random views, and else that of the evaluation view.
    Then the network takes a step of Adam towards it, the teacher's average moves, and some of the network's weights go
    back to where they started. All three normalise by the statistics of the batch. Views are drawn as in training here;
    those of the authors' published code are stronger, and 32.

    Args:
        augmentation: what is random in a view.
        num_views: random views that are averaged.
        confidence: the least that needs no averaging over views.
        momentum: share of the teacher that remains in each step.
        restoration: probability with which a weight goes back to its start after a step.
    """

    augmentation: Augmentation = VIEWS
    num_views: int = 8
    confidence: float = 0.92
    momentum: float = 0.999
    restoration: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("confidence", "momentum", "restoration"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise self.unfit(name, "a number from 0 to 1")
        if self.num_views < 1:
            raise self.unfit("num_views", "1 or more")
        if self.augmentation.mixup or self.augmentation.cutmix:
            raise UserError("after.cotta.augmentation: a view is one image's own; leave mixup and cutmix out")
        if not self.augmentation.any:
            raise UserError("after.cotta.augmentation: all views would be the same; give crop_padding, for instance")

    def check(self, network: Network) -> None:
        """There are norm layers, and images whose views can be averaged.

        Raises:
            UserError: there are none.
        """
        super().check(network)
        if network.backbone.preprocessing.modality != "image":
            raise UserError("it averages crops of images, which texts and sounds have not; use after=tent or eata")

    def begin(self, deployed: Deployed) -> Predictor:
        """With the network as trained, and a copy as the teacher."""
        normalise_by_batch(deployed.network)
        return _CoTTA(self, deployed)


class _CoTTA:
    def __init__(self, settings: CoTTA, deployed: Deployed) -> None:
        self.settings = settings
        self.deployed = deployed
        self.network = deployed.network
        self.teacher, self.anchor = averaged(self.network), deepcopy(self.network)
        self.start = {name: parameter.detach().clone() for name, parameter in self.network.named_parameters()}
        self.network.requires_grad_()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.lr)
        seed = stable_seed(settings.seed, "cotta")
        self.generator = torch.Generator(deployed.device).manual_seed(seed)

    def __call__(self, x: Tensor) -> Tensor:
        teacher = self._teach(x)
        self.optimizer.zero_grad()
        teaching_loss(self.network(self.deployed.view(x)), teacher).backward()
        self.optimizer.step()
        follow(self.teacher, self.network, self.settings.momentum)
        restore(self.network, self.start, self.settings.restoration, self.generator)
        return teacher

    @torch.no_grad()
    def _teach(self, x: Tensor) -> Tensor:
        """The teacher's log probabilities [n, k]."""
        if log_p(self.anchor, self.deployed.view(x)).amax(dim=1).exp().mean() >= self.settings.confidence:
            return log_p(self.teacher, self.deployed.view(x))
        views = (
            self.deployed.random_view(x, self.settings.augmentation, self.generator)
            for _ in range(self.settings.num_views)
        )
        each = torch.stack([log_p(self.teacher, view) for view in views])
        return each.logsumexp(dim=0) - math.log(len(each))


def log_p(network: Network, x: Tensor) -> Tensor:
    """Logarithm [n, k], in float32 at least, of the class probabilities of images [n, c, h, w]."""
    return log_softmax(full_precision(network(x)), dim=1)
