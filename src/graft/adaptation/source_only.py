"""Source only: nothing is learned from the target."""

from dataclasses import dataclass

from graft.adaptation.base import Adaptation
from graft.regularisers.base import Beginning


@dataclass(frozen=True)
class SourceOnly(Adaptation):
    """Adds nothing: what every other method is compared with."""

    def begin(self, beginning: Beginning) -> None:
        """There is no term."""
