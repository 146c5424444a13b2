"""How the weight of a term grows with the share of optimiser steps that lie behind."""

import math
from dataclasses import dataclass

from graft.errors import UserError


@dataclass(frozen=True)
class Ramp:
    """weight * (2 / (1 + exp(-gamma p)) - 1) at progress p in [0, 1]; `gamma` null: the weight from the start.

    Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016, section 5.2.2, with gamma = 10.

    Raises:
        UserError: a weight below 0, a gamma not above 0.
    """

    weight: float = 1.0
    gamma: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight < math.inf:
            raise UserError(f"weight={self.weight!r}; expected 0 or more")
        if self.gamma is not None and not self.gamma > 0.0:
            raise UserError(f"gamma={self.gamma!r}; expected a number above 0, or null for a constant weight")

    def __call__(self, progress: float) -> float:
        """The weight at this progress."""
        if self.gamma is None:
            return self.weight
        return self.weight * (2.0 / (1.0 + math.exp(-self.gamma * progress)) - 1.0)
