"""The epochs that rules without labels of the target chose in a stage, and the network after each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from graft.adaptation.selection import best_epochs
from graft.averaging import State
from graft.callbacks.candidates import EPOCH, History, oracle_choice
from graft.callbacks.checkpoints import read_checkpoint

ORACLE_RULE = "oracle"


@dataclass(frozen=True)
class Choice:
    """What a selection rule came to.

    Args:
        epoch: counted from 1; 0 where nothing was stepped.
        score: what it is the best by; None for a rule without.
        read: gives the network's state after that epoch.
        collapsed: no epoch was fit to be chosen, and the last one stands in.
    """

    epoch: int
    score: float | None
    read: Callable[[], State]
    collapsed: bool = False

    def described(self) -> dict[str, Any]:
        """What the record says of it beside what the network gets right."""
        said: dict[str, Any] = {"epoch": self.epoch, "score": self.score}
        return said | {"collapsed": True} if self.collapsed else said


def label_free_choices(
    folder: Path,
    key: str,
    history: History,
    start: Mapping[str, Tensor],
    last: State,
    finish: Callable[[State], State],
) -> dict[str, Choice]:
    """The choice of each rule by which any epoch was scored, and the oracle's where it was asked for.

    Args:
        folder: the stage's.
        key: content hash of the stage.
        history: its epochs.
        start: the network's state as the stage began.
        last: ... as it ended.
        finish: what is done to a state once all training is over; to `last` it has been.
    """
    found = best_epochs(history)
    last_epoch = history[-1]["epoch"] if found else 0

    def choice(epoch: int | None, score: float) -> Choice:
        if epoch is None:
            return Choice(last_epoch, None, lambda: last, collapsed=True)
        return Choice(epoch, score, (lambda: last) if epoch == last_epoch else partial(state_after, epoch))

    def state_after(epoch: int) -> State:
        checkpoint = read_checkpoint(folder / EPOCH.format(epoch))
        assert checkpoint["key"] == key, folder
        return finish({**start, **checkpoint["state"]})

    choices = {name: choice(best.epoch, best.score) for name, best in found.items()}
    oracle = oracle_choice(folder, key, history)
    return choices if oracle is None else choices | {ORACLE_RULE: choice(*oracle)}
