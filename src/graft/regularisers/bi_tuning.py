"""Bi-Tuning: the classes of the target told apart among samples, by the head and by a projection of their own."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from graft.errors import UserError
from graft.models.heads.linear import LinearHead
from graft.models.network import Network, initial_weights
from graft.regularisers.base import Beginning, Need, Regulariser, Step, Term, check_weights
from graft.strategies.phases import ResolvedPhase

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def contrast(own: Tensor, others: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """Mean over n of -1/|P| sum over positives of log softmax(similarities / temperature), a scalar.

    Zhong et al., "Bi-tuning of pre-trained representations", 2020: the contrastive cross-entropy where similarities are
    those of the weights of the sample's class to samples, and the categorical contrastive loss where they are those of
    the sample to samples. P is the sample itself and all others of its class.

    Args:
        own: similarities [n] to the sample itself.
        others: similarities [n, m] to others.
        positive: which of those are of the sample's class, booleans [n, m].
        temperature: what similarities are divided by.
    """
    log_p = torch.log_softmax(torch.cat([own[:, None], others], dim=1) / temperature, dim=1)
    positive = torch.cat([positive.new_ones(len(own), 1), positive], dim=1)
    return -((log_p * positive).sum(dim=1) / positive.sum(dim=1)).mean()


def with_one(features: Tensor) -> Tensor:
    """Features [n, d] with a 1 appended, for the bias, and normalised: [n, d + 1]."""
    return normalize(torch.cat([features, torch.ones_like(features[:, :1])], dim=1), dim=1)


@dataclass(frozen=True)
class BiTuning(Regulariser):
    """Adds two contrasts between each image and recent ones, whose features an average of the network computes.

    The keys are features, and projections of them, of a second view of each image, in a queue for each class. Where
    views are fixed, as those of cached features are, the first view serves as the second. Like the authors' published
    code, normalised features meet the head's normalised weights, which these terms do not train. Queues begin empty,
    and norm layers of the averaged network have the network's own statistics and modes. The averages move with every
    step of the optimizer, the queues with every batch, of which several may share a step.

    With several processes, the keys of the first are those of all.
    """

    needs: ClassVar[frozenset[Need]] = frozenset(
        {"second_view", "one_label_each", "trained_features", "single_pass", "whole_batch"}
    )

    weight: float = 1.0
    temperature: float = 0.07
    keys_per_class: int = 40
    momentum: float = 0.999
    num_outputs: int = 128

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)
        if not self.temperature > 0.0:
            raise UserError(f"temperature={self.temperature!r}; expected a number above 0")
        if not 0.0 <= self.momentum <= 1.0:
            raise UserError(f"momentum={self.momentum!r}; expected a number from 0 to 1")
        for name in ("keys_per_class", "num_outputs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}; expected 1 or more")

    def check(self, network: Network, phases: Sequence[ResolvedPhase]) -> None:
        """The head has a row of weights for each class."""
        super().check(network, phases)
        if not isinstance(network.head, LinearHead):
            raise UserError("it contrasts features with the weights of a linear head; use head=linear")

    def begin(self, beginning: Beginning) -> Term:
        """With a projection whose initial weights are drawn from the stage's seed, and a copy of the network."""
        with initial_weights(beginning.seed, "bi_tuning"):
            projector = nn.Linear(beginning.network.head.num_features, self.num_outputs)
        return _BiTuningTerm(self, projector, beginning.network)


class Keys(nn.Module):
    """The latest keys of each class, in places that are filled in turn."""

    def __init__(self, num_classes: int, num_keys: int, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(num_classes, num_keys, num_features))
        self.register_buffer("z", torch.zeros(num_classes, num_keys, num_outputs))
        self.register_buffer("num_seen", torch.zeros(num_classes, dtype=torch.int64))
        self.h: Tensor
        self.z: Tensor
        self.num_seen: Tensor

    def filled(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys [m, d + 1] and [m, p] that are there, and their classes [m]."""
        places = torch.arange(self.h.shape[1], device=self.h.device)
        classes, there = (places < self.num_seen[:, None]).nonzero(as_tuple=True)
        return self.h[classes, there], self.z[classes, there], classes

    def add(self, h: Tensor, z: Tensor, y: Tensor) -> None:
        """Put keys [n, d + 1] and [n, p] of classes [n] in the places of the oldest."""
        members = one_hot(y, len(self.num_seen))  # [n, k]
        counts = members.sum(dim=0)
        order = members.cumsum(dim=0).gather(1, y[:, None])[:, 0] - 1  # among those of its class in this batch
        num_keys = self.h.shape[1]
        last = order >= counts[y] - num_keys
        places = (self.num_seen[y] + order) % num_keys
        self.h[y[last], places[last]] = h[last].to(self.h.dtype)
        self.z[y[last], places[last]] = z[last].to(self.z.dtype)
        self.num_seen += counts


class _BiTuningTerm(Term):
    def __init__(self, settings: BiTuning, projector: nn.Linear, network: Network) -> None:
        super().__init__()
        self.settings = settings
        self.projector = projector
        # What a second view goes through to become keys.
        self.backbone, self.mapping = averaged(network.backbone), averaged(network.mapping)
        self.key_projector = averaged(projector)
        head = network.head
        self.keys = Keys(head.num_classes, settings.keys_per_class, head.num_features + 1, settings.num_outputs)

    def forward(self, step: Step) -> Tensor:
        assert step.second is not None
        assert isinstance(step.network.head, LinearHead)
        for average, current in self._averages(step.network):
            take_over(average, current)
        with torch.no_grad():
            features = self.mapping(self.backbone.forward_from(step.cut, step.second))
            key_h, key_z = self._query(features, self.key_projector)
        h, z = self._query(step.outputs.features, self.projector)
        linear = step.network.head.linear
        weights = normalize(torch.cat([linear.weight, linear.bias[:, None]], dim=1).detach(), dim=1)[step.y]
        others_h, others_z, classes = self.keys.filled()
        positive = classes == step.y[:, None]
        by_head = contrast((weights * h).sum(dim=1), weights @ others_h.T, positive, self.settings.temperature)
        by_projection = contrast((z * key_z).sum(dim=1), z @ others_z.T, positive, self.settings.temperature)
        self.keys.add(key_h, key_z, step.y)
        return self.settings.weight * (by_head + by_projection)

    def _query(self, features: Tensor, projector: nn.Linear) -> tuple[Tensor, Tensor]:
        """Features [n, d] with a 1, and their projections [n, p], both normalised."""
        features = features.to(projector.weight.dtype)
        return with_one(features), normalize(projector(features), dim=1)

    def after_step(self, network: Network, step: int, num_steps: int) -> None:
        for average, current in self._averages(network):
            follow(average, current, self.settings.momentum)

    def _averages(self, network: Network) -> list[tuple[nn.Module, nn.Module]]:
        """What is averaged, and what it is an average of."""
        return [
            (self.backbone, network.backbone),
            (self.mapping, network.mapping),
            (self.key_projector, self.projector),
        ]


def averaged(module: ModuleT) -> ModuleT:
    """A copy that holds its parameters as buffers, which nothing trains."""
    copy = deepcopy(module)
    for owner in copy.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            delattr(owner, name)
            owner.register_buffer(name, parameter.detach())
    return copy


@torch.no_grad()
def follow(average: nn.Module, current: nn.Module, momentum: float) -> None:
    """Move averages to momentum x themselves + (1 - momentum) x the current parameters."""
    own = dict(average.named_buffers())
    for name, parameter in current.named_parameters():
        own[name].lerp_(parameter, 1.0 - momentum)


@torch.no_grad()
def take_over(average: nn.Module, current: nn.Module) -> None:
    """Give an average the current buffers and modes."""
    own = dict(average.named_buffers())
    for name, buffer in current.named_buffers():
        own[name].copy_(buffer)
    for follower, module in zip(average.modules(), current.modules(), strict=True):
        follower.training = module.training
