"""What every method of adaptation is: a regulariser that looks at the target's unlabelled images too."""

from dataclasses import dataclass
from typing import ClassVar

from graft.adaptation.ramps import Ramp
from graft.regularisers.base import Regulariser

SPREADS = "spreads predictions over all of the source's classes"
ALIGNS = "makes the two domains alike as a whole"


@dataclass(frozen=True)
class Adaptation(Regulariser):
    """Settings of one method, from its YAML; `begin` puts it to work, `Term.forward(step)` gives its share of the loss.

    Args:
        weight: of its term in the loss, once the ramp is over.
        gamma: steepness of the ramp that the weight grows by; None gives the whole weight from the start.
    """

    source_free: ClassVar[bool] = False  # sees the source only through the weights that it starts from

    closed_set: ClassVar[str] = ""  # why both domains should have the same classes; empty where they need not

    weight: float = 1.0
    gamma: float | None = None

    def __post_init__(self) -> None:
        Ramp(self.weight, self.gamma)

    @property
    def ramp(self) -> Ramp:
        """The weight as a function of progress."""
        return Ramp(self.weight, self.gamma)
