"""What stages came to, in plain types: what the store keeps and the record is made of."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Start:
    """Where transfer starts."""

    origin: str  # "scratch", "source", or the weights that the user named
    key: str | None = None  # content hash of the weights
    backbone: dict[str, Tensor] = field(default_factory=dict)
    source_head: dict[str, Tensor] = field(default_factory=dict)
    source_scores: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    search: dict[str, Any] = field(default_factory=dict)  # for the learning rate, where it was "auto"
    micro_batch: int | None = None  # of the source stage


@dataclass(frozen=True)
class Outcome:
    """What a stage on the target came to."""

    scores: dict[str, dict[str, Any]]  # selection rule -> "test" and "val" -> scores; more rules where a stage adapts
    best_epoch: int
    history: list[dict[str, Any]]  # one row an epoch
    steps: int
    seconds: float
    trainable_parameters: int
    num_parameters: int
    chosen: dict[str, Any] = field(default_factory=dict)  # what the strategy chose by itself, and why
    # For the learning rate, where it was "auto"; not in the store, which runs share that give the same rate by hand.
    search: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)  # selection rule -> its epoch and score
    micro_batch: int | None = None  # samples that went through the network at once, where a batch did not fit

    def under(self, rule: str) -> dict[str, Any]:
        """The scores under a rule; of the last epoch where nothing was stepped that the rule could choose from."""
        scores: dict[str, Any] = self.scores.get(rule, self.scores["last"])
        return scores
