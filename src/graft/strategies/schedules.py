"""Learning-rate schedules in closed form: a factor in [0, 1] from the optimiser step and the number of steps.

They hold no state, so a group thawed late follows the same curve as the others, and so does a resumed run.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from graft.errors import UserError


class Schedule(Protocol):
    """Anything that gives the factor on the base learning rate at `step` of `total`, both in optimiser steps."""

    def __call__(self, step: int, total: int) -> float:
        """A factor in [0, 1]; steps past `total` get the last one's."""


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise UserError(f"scheduler: {name}={value!r}; expected a number from 0 to 1")


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine wave from `start` (share 0) to `end` (share 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Constant:
    """The base learning rate throughout."""

    def __call__(self, step: int, total: int) -> float:
        """1 at every step."""
        return 1.0


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine wave down to `final`.

    Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, without restarts.
    """

    warmup_fraction: float = 0.1  # share of the steps
    final: float = 0.0  # factor that the step after the last would have

    def __post_init__(self) -> None:
        _check_share("warmup_fraction", self.warmup_fraction)
        _check_share("final", self.final)

    def __call__(self, step: int, total: int) -> float:
        """The factor at `step` of `total`."""
        step = min(step, total)
        warmup = round(self.warmup_fraction * total)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return _between(1.0, self.final, (step - warmup) / max(1, total - warmup))


@dataclass(frozen=True)
class OneCycle:
    """Up from 1/`div_factor` by half a cosine wave, then down to 1/(`div_factor` x `final_div_factor`) by another.

    Smith and Topin, "Super-convergence", 2018, in the two-phase cosine form of `torch.optim.lr_scheduler.OneCycleLR`;
    the optimiser's learning rate is the peak. Momentum stays as it is.
    """

    warmup_fraction: float = 0.3  # share of the steps before the peak
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        _check_share("warmup_fraction", self.warmup_fraction)
        for name in ("div_factor", "final_div_factor"):
            if getattr(self, name) < 1.0:
                raise UserError(f"scheduler: {name}={getattr(self, name)!r}; expected a number from 1 on")

    def __call__(self, step: int, total: int) -> float:
        """The factor at `step` of `total`."""
        start = 1.0 / self.div_factor
        end = start / self.final_div_factor
        last = total - 1
        peak = self.warmup_fraction * total - 1
        if step < peak:
            return _between(start, 1.0, step / peak)
        peak = max(peak, 0.0)
        return _between(1.0, end, (min(step, last) - peak) / (last - peak)) if peak < last else 1.0


@dataclass(frozen=True)
class SlantedTriangular:
    """Linearly up from 1/`ratio` over the first `cut_fraction` of the steps, then linearly down to 1/`ratio`.

    Howard and Ruder, "ULMFiT", ACL 2018, equation 3. The way down ends with the last step also where the cut is not a
    whole number of steps; there the paper's own formula would fall below 1/`ratio`.
    """

    cut_fraction: float = 0.1
    ratio: float = 32.0

    def __post_init__(self) -> None:
        _check_share("cut_fraction", self.cut_fraction)
        if self.ratio < 1.0:
            raise UserError(f"scheduler: ratio={self.ratio!r}; expected a number from 1 on")

    def __call__(self, step: int, total: int) -> float:
        """The factor at `step` of `total`."""
        step, cut = min(step, total), math.floor(total * self.cut_fraction)
        share = step / cut if step < cut else 1 - (step - cut) / max(1, total - cut)
        return (1 + share * (self.ratio - 1)) / self.ratio


@dataclass(frozen=True)
class Step:
    """Multiplied by `gamma` at each of the `milestones`, given as shares of the steps."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        for milestone in self.milestones:
            _check_share("milestones", milestone)
        _check_share("gamma", self.gamma)

    def __call__(self, step: int, total: int) -> float:
        """The factor at `step` of `total`."""
        # Rounded, so that .7 of 10 steps is step 7 and not the first step past 7.000000000000001.
        return float(self.gamma ** sum(step >= round(milestone * total) for milestone in self.milestones))


@dataclass(frozen=True)
class InverseDecay:
    """(1 + `rate` p)^-`power` at the share p of the steps that lie behind.

    Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016, section 5.2.2.
    """

    rate: float = 10.0
    power: float = 0.75

    def __post_init__(self) -> None:
        for name in ("rate", "power"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise UserError(f"scheduler: {name}={getattr(self, name)!r}; expected a number from 0 on")

    def __call__(self, step: int, total: int) -> float:
        """The factor at `step` of `total`."""
        return float((1.0 + self.rate * min(step, total) / total) ** -self.power)
