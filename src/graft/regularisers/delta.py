"""DELTA: the outputs of layers kept near those of the starting network, the more the more a channel matters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, softmax

from graft.errors import UserError
from graft.features import Prefix, extract, in_eval_mode
from graft.models.backbones.base import Backbone
from graft.models.network import Network
from graft.probes import logistic_path
from graft.regularisers.base import (
    Beginning,
    Fixed,
    Need,
    Regulariser,
    Step,
    Term,
    check_trained,
    check_weights,
    full_precision,
    matching_groups,
    some_images,
)
from graft.strategies.phases import ResolvedPhase

TEMPERATURE = 5.0  # of the attention, on increases of the loss that have a mean of 0 and a variance of 1
PROBE_STRENGTH = 0.01  # weight of ||W||^2 / 2 beside the mean cross-entropy, on features of mean square 1


def behaviour_distance(
    groups: Mapping[str, Tensor], start: Mapping[str, Tensor], attention: Mapping[str, Tensor] | None = None
) -> Tensor | float:
    """Sum over layer groups of the mean over n of sum_c W_c mean over positions of (FM_c - FM0_c)^2.

    Li et al., "DELTA: deep learning transfer using feature map with attention for convolutional networks", ICLR 2019,
    equations 4 and 5, with two differences of scale: the squared norm is divided by the positions, as in the authors'
    published code, so that it does not depend on the size of the images, and averaged over the batch, so that it does
    not depend on the size of that. 0.0 without layer groups.

    `groups` and `start` hold outputs [n, ...] of the same layer groups, of the network and of the starting one;
    `attention` holds the weights W [c] of their channels, which sum to 1; without it each is 1 / c, as in the authors'
    ablation.
    """
    distances = []
    for name, output in groups.items():
        squares = (full_precision(output) - full_precision(start[name])).square()
        if attention is not None:
            by_channel = squares.movedim(channel_axis(squares), -1).flatten(end_dim=-2).mean(dim=0)
            distances.append(by_channel @ attention[name].to(by_channel.dtype))
        else:
            distances.append(squares.mean())
    return sum(distances[1:], distances[0]) if distances else 0.0


def channel_axis(output: Tensor) -> int:
    """Which dimension of an output holds the channels.

    It is the last of features [n, c] and tokens [n, t, c]. Of maps [n, c, h, w] and [n, h, w, c] it is the one beside
    height and width, which are equal; the second where all three are.
    """
    if output.ndim < 4:
        return output.ndim - 1
    return 1 if output.shape[2] == output.shape[3] else 3


def channel_attention(increases: Tensor) -> Tensor:
    """Weights [c] of a layer's channels that sum to 1: the softmax over what the loss grows by without each, [c].

    Equation 6 of the same paper. Before the softmax, increases are centred, scaled to a variance of 1 and divided by 5,
    as in the authors' published code: as they come they are so small that all channels would weigh the same. Without
    any difference between channels they do.
    """
    deviation = increases.std(correction=0)
    scaled = (increases - increases.mean()) / torch.where(deviation > 0, deviation, 1.0)
    return softmax(scaled / TEMPERATURE, dim=0)


@torch.no_grad()
def loss_increases(backbone: Backbone, cut: int, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """What a loss of the features of images [n, c', h, w] grows by where one channel is switched off.

    Returns increases [c] for the channels of what the backbone's first `cut` layer groups make; its layer groups are
    functions one after the other, in eval mode. Every channel takes a pass through those that are left.
    """
    output = backbone.forward_to(cut, x)
    axis = channel_axis(output)
    losses = []
    for channel in range(output.shape[axis]):
        without = output.clone()
        without.select(axis, channel).zero_()
        losses.append(loss(backbone.forward_from(cut, without)))
    return torch.stack(losses) - loss(backbone.forward_from(cut, output.clone()))


@dataclass(frozen=True)
class Delta(Regulariser):
    """Keeps what layer groups make of each image near what they made of it when the stage began.

    With attention, channels without which a linear classifier on the starting network's features of the target would do
    worse are kept more strictly. The classifier is fitted to all training images of the target; the losses without each
    channel are of `num_images` of them.
    """

    needs: ClassVar[frozenset[Need]] = frozenset(
        {"source_weights", "starting_network", "layer_groups", "trained_features"}
    )

    weight: float = 0.003
    groups: str = ".*"
    attention: bool = False
    num_images: int = 100

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)
        if self.num_images < 1:
            raise UserError(f"num_images={self.num_images}; expected 1 or more")

    def check(self, network: Network, phases: Sequence[ResolvedPhase]) -> None:
        """The pattern matches, and something is trained that the outputs of what it matches depend on."""
        super().check(network, phases)
        names = list(network.named_groups())
        last = names.index(matching_groups(self.groups, network)[-1])
        check_trained(names[: last + 1], self.groups, phases)

    def begin(self, beginning: Beginning) -> Term:
        """With the channels' attention; the starting network's outputs come with each step."""
        groups = matching_groups(self.groups, beginning.network)
        attention = self._attention(beginning, groups) if self.attention else None
        return _DeltaTerm(self.weight, frozenset(groups), attention)

    def _attention(self, beginning: Beginning, groups: list[str]) -> Fixed:
        backbone, domain, how = beginning.network.backbone, beginning.domain, beginning.how
        features = extract(Prefix.whole(backbone), domain, "train", how).double()
        weight, bias = linear_classifier(features, domain.datasets["train"].labels, domain.num_classes)
        images = some_images(domain, self.num_images, how)

        def loss(features: Tensor) -> Tensor:
            return cross_entropy(linear(features.cpu().double(), weight, bias), images.y.cpu())

        names = [f"backbone.{name}" for name in backbone.layer_groups]
        with in_eval_mode(backbone, how.device), how.context():
            return Fixed(
                {
                    name: channel_attention(loss_increases(backbone, names.index(name) + 1, images.x, loss)).float()
                    for name in groups
                }
            )


def linear_classifier(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weight [k, d] and bias [k] of a logistic regression of class indices [n] on features [n, d]."""
    scale = (features - features.mean(dim=0)).square().mean().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    heads = logistic_path(features / scale, labels, num_classes, [PROBE_STRENGTH])
    return heads.weight[0] / scale, heads.bias[0]


class _DeltaTerm(Term):
    """Layer groups before a cut are not run, and are in both networks the same fixed function: they add nothing."""

    def __init__(self, weight: float, groups: frozenset[str], attention: Fixed | None) -> None:
        super().__init__()
        self.weight = weight
        self.groups = groups
        self.attention = attention

    def forward(self, step: Step) -> Tensor:
        assert step.start is not None
        groups = {name: output for name, output in step.trace.groups.items() if name in self.groups}
        attention = dict(self.attention.items()) if self.attention is not None else None
        distance = behaviour_distance(groups, step.start.groups, attention)
        return step.outputs.logits.new_ones(()) * self.weight * distance
