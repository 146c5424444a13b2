"""DELTA: the outputs of layers kept near those of the starting network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graft.models.network import Network
from graft.regularisers.base import (
    Beginning,
    Need,
    Regulariser,
    Step,
    Term,
    check_weights,
    full_precision,
    matching_groups,
)
from graft.strategies.phases import ResolvedPhase


def behaviour_distance(groups: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor | float:
    """Sum over layer groups of the mean over n of the mean over channels and positions of (FM - FM0)^2.

    Li et al., "DELTA: deep learning transfer using feature map with attention for convolutional networks", ICLR 2019,
    equation 4 with every channel weighted alike (their ablation without attention) and divided by the positions, so
    that its scale does not depend on the size of the images. 0.0 without layer groups.

    `groups` and `start` hold outputs [n, ...] of the same layer groups, of the network and of the starting one.
    """
    squares = [(full_precision(groups[name]) - full_precision(start[name])).square().mean() for name in groups]
    return sum(squares[1:], squares[0]) if squares else 0.0


@dataclass(frozen=True)
class Delta(Regulariser):
    """Keeps what layer groups make of each image near what they made of it when the stage began."""

    needs: ClassVar[frozenset[Need]] = frozenset(
        {"source_weights", "starting_network", "layer_groups", "trained_features"}
    )

    weight: float = 0.1
    groups: str = ".*"

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)

    def check(self, network: Network, phases: Sequence[ResolvedPhase]) -> None:
        """The pattern matches."""
        super().check(network, phases)
        matching_groups(self.groups, network)

    def begin(self, beginning: Beginning) -> Term:
        """The starting network's outputs come with each step."""
        return _DeltaTerm(self.weight, frozenset(matching_groups(self.groups, beginning.network)))


class _DeltaTerm(Term):
    """Layer groups before a cut are not run, and are in both networks the same fixed function: they add nothing."""

    def __init__(self, weight: float, groups: frozenset[str]) -> None:
        super().__init__()
        self.weight = weight
        self.groups = groups

    def forward(self, step: Step) -> Tensor:
        assert step.start is not None
        groups = {name: output for name, output in step.trace.groups.items() if name in self.groups}
        distance = behaviour_distance(groups, step.start.groups)
        return step.outputs.logits.new_ones(()) * self.weight * distance
