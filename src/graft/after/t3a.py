"""T3A: a classifier of class prototypes that test images adjust, without a gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from graft.adaptation.entropy import entropies
from graft.after.online import Deployed, Online, Predictor
from graft.errors import UserError
from graft.models.heads.linear import LinearHead
from graft.models.network import Network
from graft.regularisers.base import full_precision


@dataclass(frozen=True)
class T3A(Online):
    """Predicts by the mean direction of the surest features so far that the head gave each class.

    Iwasawa and Matsuo, "Test-time classifier adjustment module for model-agnostic domain generalization", NeurIPS 2021,
    section 3. The support set of class k begins with the head's weights w_k; each test feature z joins that of the
    class which the head gives it, before it is predicted itself; and the `num_supports` of least entropy under the
    head stay. Logits are z . c_k with the prototypes c_k, sums of the normalised supports, which are normalised too, as
    in the authors' published code.

    Args:
        num_supports: the most that a class keeps; None: all.
    """

    num_supports: int | None = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_supports is not None and self.num_supports < 1:
            raise self.unfit("num_supports", "1 or more, or null for all")

    def check(self, network: Network) -> None:
        """The head has a row of weights for each class.

        Raises:
            UserError: it has none.
        """
        if not isinstance(network.head, LinearHead):
            raise UserError("its prototypes begin with the weights of a linear head; use head=linear")

    def begin(self, deployed: Deployed) -> Predictor:
        """With the head's weights as the only supports."""
        return _T3A(self, deployed)


class _T3A:
    def __init__(self, settings: T3A, deployed: Deployed) -> None:
        self.settings = settings
        self.deployed = deployed
        assert isinstance(deployed.network.head, LinearHead)
        self.head = deployed.network.head
        weights = self.head.linear.weight.detach()
        self.supports = weights  # [m, d]
        self.labels = torch.arange(len(weights), device=weights.device)  # [m]
        self.entropies = entropies(self.head(weights)).detach()  # [m]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        features = self.deployed.network.features(self.deployed.view(x))
        logits = self.head(features)
        self.supports = torch.cat([self.supports, features])
        self.labels = torch.cat([self.labels, logits.argmax(dim=1)])
        self.entropies = torch.cat([self.entropies, entropies(logits)])
        self._keep(surest(self.entropies, self.labels, self.settings.num_supports))
        prototypes = class_directions(full_precision(self.supports), self.labels, self.head.num_classes)
        return full_precision(features) @ prototypes.T

    def _keep(self, rows: Tensor) -> None:
        self.supports, self.labels, self.entropies = self.supports[rows], self.labels[rows], self.entropies[rows]


def surest(entropy: Tensor, labels: Tensor, num: int | None) -> Tensor:
    """Rows of the `num` least entropies [m] of each of the classes in labels [m]; of equals, those that came first."""
    order = entropy.argsort(stable=True)
    if num is None:
        return order.sort().values
    kept = [order[labels[order] == label][:num] for label in labels.unique()]
    return torch.cat(kept).sort().values


def class_directions(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The normalised sum [k, d] of the normalised features [m, d] of each class in labels [m]."""
    sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, normalize(features, dim=1))
    return normalize(sums, dim=1)
