"""L2-SP: weight decay towards the starting point."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graft.errors import UserError
from graft.models.network import Network
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
)
from graft.strategies.phases import ResolvedPhase


def l2_sp(
    pretrained: Iterable[tuple[Tensor, Tensor]], new: Iterable[Tensor], alpha: float, beta: float
) -> Tensor | float:
    """alpha/2 sum ||w - w0||^2 + beta/2 sum ||v||^2, a scalar; 0.0 where there are no tensors at all.

    Li, Grandvalet, Davoine, "Explicit inductive bias for transfer learning with convolutional networks", ICML 2018,
    equation 3.

    Args:
        pretrained: pairs of a pretrained tensor w and its starting point w0, of one shape.
        new: tensors v of any shape without a starting point worth keeping.
        alpha: strength of the first.
        beta: strength of the second.
    """
    total: Tensor | float = 0.0
    for weight, start in pretrained:
        total = total + alpha / 2 * (full_precision(weight) - full_precision(start)).square().sum()
    for weight in new:
        total = total + beta / 2 * full_precision(weight).square().sum()
    return total


@dataclass(frozen=True)
class L2SP(Regulariser):
    """Draws trained parameters of the backbone to where they started, and those of the head to zero.

    A mapping, which starts as the identity, is drawn to its start as well. It takes the place of the optimiser's weight
    decay.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"source_weights"})
    replaces_weight_decay: ClassVar[bool] = True

    alpha: float = 0.1
    beta: float = 0.01
    groups: str = ".*"

    def __post_init__(self) -> None:
        check_weights(alpha=self.alpha, beta=self.beta)

    def check(self, network: Network, phases: Sequence[ResolvedPhase]) -> None:
        """The pattern matches, something that is anchored is trained, and no rule sets a weight decay above 0."""
        super().check(network, phases)
        check_trained([*matching_groups(self.groups, network), "mapping"], self.groups, phases)
        if any(entry.weight_decay for phase in phases for entry in phase.assignments):
            raise UserError("it takes the place of weight decay, and a rule of this strategy sets one")

    def begin(self, beginning: Beginning) -> Term:
        """With the starting point of every parameter that is drawn to it."""
        chosen = {*matching_groups(self.groups, beginning.network), "mapping"}
        parameters = beginning.network.named_group_parameters()
        return _L2SPTerm(self, Fixed({name: value for name, group, value in parameters if group in chosen}))


class _L2SPTerm(Term):
    def __init__(self, settings: L2SP, start: Fixed) -> None:
        super().__init__()
        self.settings = settings
        self.start = start

    def forward(self, step: Step) -> Tensor:
        trained = {name: p for name, _, p in step.network.named_group_parameters() if p.requires_grad}
        pretrained = [(trained[name], start) for name, start in self.start.items() if name in trained]
        new = [parameter for name, parameter in trained.items() if name.startswith("head.")]
        total = l2_sp(pretrained, new, self.settings.alpha, self.settings.beta)
        return total if isinstance(total, Tensor) else step.outputs.logits.new_zeros(())
