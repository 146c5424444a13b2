"""When a phase ends, and how the epochs of a stage are divided among its phases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Epochs:
    """After a fixed number of epochs."""

    count: int

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or isinstance(self.count, bool) or self.count < 1:
            raise UserError(f"until: epochs={self.count!r}; expected a whole number from 1 on")


@dataclass(frozen=True)
class Fraction:
    """After a share of the stage's epochs, one epoch at least."""

    share: float

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0.0 < self.share < 1.0:
            raise UserError(f"until: fraction={self.share!r}; expected a number between 0 and 1")


@dataclass(frozen=True)
class Plateau:
    """When a metric has not improved by more than `min_delta` for `patience` epochs."""

    monitor: str = "val/loss"
    patience: int = 2
    min_delta: float = 0.0
    mode: str = "min"  # "min": lower is better; "max": higher is better

    def __post_init__(self) -> None:
        if not isinstance(self.patience, int) or isinstance(self.patience, bool) or self.patience < 1:
            raise UserError(f"until: plateau.patience={self.patience!r}; expected a whole number from 1 on")
        if isinstance(self.min_delta, bool) or not isinstance(self.min_delta, int | float) or self.min_delta < 0:
            raise UserError(f"until: plateau.min_delta={self.min_delta!r}; expected a number from 0 on")
        if self.mode not in ("min", "max"):
            raise UserError(f"until: plateau.mode={self.mode!r}; expected min or max")


Until = Epochs | Fraction | Plateau


def parse_until(setting: Mapping[str, Any] | None) -> Until | None:
    """`{epochs: 2}`, `{fraction: 0.2}`, `{plateau: {monitor, patience, min_delta, mode}}`, or None for the rest."""
    if setting is None:
        return None
    if not isinstance(setting, Mapping) or len(setting) != 1:
        raise UserError(f"until={setting!r}; expected one of {{epochs: 2}}, {{fraction: 0.2}}, {{plateau: {{...}}}}")
    [(kind, value)] = setting.items()
    if kind == "epochs":
        return Epochs(value)
    if kind == "fraction":
        return Fraction(value)
    if kind == "plateau":
        return _parse_plateau({} if value is None else value)
    raise UserError(f"until: unknown key {kind!r}; {did_you_mean(str(kind), ('epochs', 'fraction', 'plateau'))}")


def _parse_plateau(setting: Mapping[str, Any]) -> Plateau:
    if not isinstance(setting, Mapping):
        raise UserError(f"until: plateau={setting!r}; expected {{monitor: val/loss, patience: 2, min_delta: 0}}")
    for key in setting:
        if key not in (keys := tuple(Plateau.__dataclass_fields__)):
            raise UserError(f"until: unknown key plateau.{key}; {did_you_mean(str(key), keys)}")
    return Plateau(**{str(key): value for key, value in setting.items()})


def divide(untils: Sequence[Until | None], max_epochs: int) -> tuple[int | None, ...]:
    """Epochs of each phase; None for those that share what is left (a plateau, and the last phase).

    Raises:
        UserError: `max_epochs` does not give each phase its fixed number of epochs, or one; or the fractions leave
            nothing.
    """
    share = sum(until.share for until in untils if isinstance(until, Fraction))
    if share >= 1.0:
        raise UserError(f"the fractions of its phases add up to {share:g}; nothing is left for the last one")
    needed = sum(until.count if isinstance(until, Epochs) else 1 for until in untils)
    if max_epochs < needed:
        raise UserError(f"its {len(untils)} phases need at least {needed} epochs; max_epochs is {max_epochs}")
    epochs = [_wanted(until, max_epochs) for until in untils]
    num_open = epochs.count(None)
    # One epoch at least for everybody can ask for more than there is: the longest shares give way, the last one first.
    while sum(count or 0 for count in epochs) > max_epochs - num_open:
        shares = [i for i, until in enumerate(untils) if isinstance(until, Fraction)]
        longest = max(shares, key=lambda i: (epochs[i] or 0, i))
        epochs[longest] = (epochs[longest] or 0) - 1
    return tuple(epochs)


def _wanted(until: Until | None, max_epochs: int) -> int | None:
    if isinstance(until, Epochs):
        return until.count
    if isinstance(until, Fraction):
        return max(1, round(until.share * max_epochs))
    return None


def lay_out(epochs: Sequence[int | None], first_epoch: int, max_epochs: int) -> list[tuple[int, int]]:
    """(first epoch, epochs) of each phase from `first_epoch` to the end; the open ones share what is left evenly.

    >>> lay_out([2, None, None], first_epoch=0, max_epochs=7)
    [(0, 2), (2, 3), (5, 2)]
    """
    left = max_epochs - first_epoch - sum(count or 0 for count in epochs)
    num_open = sum(count is None for count in epochs)
    spans = []
    for count in epochs:
        if count is None:
            count = -(-left // num_open)
            left, num_open = left - count, num_open - 1
        spans.append((first_epoch, count))
        first_epoch += count
    return spans
