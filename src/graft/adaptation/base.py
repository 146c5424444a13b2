"""What every method of adaptation is: a regulariser that looks at the target's unlabelled images too."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graft.adaptation.ramps import Ramp
from graft.data.domain import Domain
from graft.features import Inference
from graft.models.network import Network
from graft.regularisers.base import Beginning, Regulariser, Step, Term

SPREADS = "spreads predictions over all of the source's classes"
ALIGNS = "makes the two domains alike as a whole"


@dataclass(frozen=True)
class Adaptation(Regulariser):
    """Settings of one method, from its YAML; `begin` puts it to work, `Term.forward(step)` gives its share of the loss.

    A method that neither learns nor remembers anything beside the network is its `loss` alone; others have a `begin`.

    Args:
        weight: of its term in the loss, once the ramp is over.
        gamma: steepness of the ramp that the weight grows by; None gives the whole weight from the start.
    """

    source_free: ClassVar[bool] = False  # sees the source only through the weights that it starts from
    trains: ClassVar[bool] = True  # by gradient steps; where no method does, the stage takes none

    closed_set: ClassVar[str] = ""  # why both domains should have the same classes; empty where they need not

    weight: float = 1.0
    gamma: float | None = None

    def __post_init__(self) -> None:
        Ramp(self.weight, self.gamma)

    @property
    def ramp(self) -> Ramp:
        """The weight as a function of progress."""
        return Ramp(self.weight, self.gamma)

    def loss(self, step: Step) -> Tensor:
        """What one step adds to the loss, a scalar, before it is weighted."""
        raise NotImplementedError

    def begin(self, beginning: Beginning) -> Term | None:
        """The loss times the ramp."""
        return LossTerm(self)

    def finish(self, network: Network, target: Domain, how: Inference) -> None:
        """Act on the network once all training is over; most methods leave it as it is."""


class LossTerm(Term):
    """A method at work that is a function of the step."""

    def __init__(self, settings: Adaptation) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, step: Step) -> Tensor:
        """The weighted loss of one training step."""
        return self.settings.ramp(step.progress) * self.settings.loss(step)
