"""Epochs among which rules without labels of the target choose: their scores, and the weights of those chosen."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from graft.adaptation.selection import PREFIX, best_epochs
from graft.records.files import atomic_write_json, read_json

History = list[dict[str, Any]]

EPOCH = "epoch_{}.ckpt"  # the network after an epoch that some rule chose
ORACLE = "oracle.json"  # accuracy on the target's test split by epoch
SECONDS = PREFIX + "seconds"  # that looking at an epoch took, in its row of the history; no part of the fit's own


@dataclass(frozen=True)
class Candidates:
    """Scores epochs and keeps the weights of those that a rule would choose, one file an epoch.

    What it decides by is in the history, and so in the stage's checkpoints. A file is written before the checkpoint
    that says so, and removed when neither the last checkpoint nor the one before has a use for it.

    Args:
        folder: the stage's.
        key: content hash of the stage.
        every: epochs from one candidate to the next.
        judge: the label-free scores of a network's state.
        oracle: the accuracy on the target's test split of the state that was judged last, where it was asked for. It is
            kept apart from all that training leaves.
        save: writes a file whole or not at all.
    """

    folder: Path
    key: str
    every: int
    judge: Callable[[Mapping[str, Tensor]], dict[str, float]]
    oracle: Callable[[], float] | None
    save: Callable[[dict[str, Any], Path], None]

    def consider(self, history: History, state: Mapping[str, Tensor], phase_over: bool, is_writer: bool) -> None:
        """Add the scores of the newest epoch to its row, and keep its weights where a rule chooses it.

        Args:
            history: the stage's epochs so far.
            state: the network after the newest.
            phase_over: whether it is the last of its phase.
            is_writer: whether this process is the one that writes.
        """
        row = history[-1]
        if SECONDS in row or (row["epoch"] % self.every and not phase_over):
            return
        started = time.monotonic()
        row |= {PREFIX + name: score for name, score in self.judge(state).items()}
        if is_writer:
            if self.oracle is not None:
                self._write_down(row["epoch"], self.oracle())
            if row["epoch"] in self.chosen(history):
                kept = {name: tensor.detach().cpu() for name, tensor in state.items()}
                self.save({"key": self.key, "state": kept}, self.folder / EPOCH.format(row["epoch"]))
        row[SECONDS] = time.monotonic() - started

    def tidy(self, history: History) -> None:
        """Remove the files of epochs that no rule chooses any more."""
        in_use = self.chosen(history) | self.chosen(history[:-1])
        for path in self.folder.glob(EPOCH.format("*")):
            if path.name not in {EPOCH.format(epoch) for epoch in in_use}:
                path.unlink()

    def chosen(self, history: History) -> set[int]:
        """The epochs that some rule chooses."""
        epochs = {best.epoch for best in best_epochs(history).values()}
        if (best := oracle_choice(self.folder, self.key, history)) is not None:
            epochs.add(best[0])
        return {epoch for epoch in epochs if epoch is not None}

    def _write_down(self, epoch: int, accuracy: float) -> None:
        before = {past: value for past, value in oracle_accuracies(self.folder, self.key).items() if past < epoch}
        atomic_write_json(self.folder / ORACLE, {"key": self.key, "accuracy": before | {epoch: accuracy}})


def oracle_accuracies(folder: Path, key: str) -> dict[int, float]:
    """Test accuracy by epoch, as far as the stage of that key wrote it down."""
    path = folder / ORACLE
    found = read_json(path) if path.exists() else {}
    return {int(epoch): value for epoch, value in found["accuracy"].items()} if found.get("key") == key else {}


def oracle_choice(folder: Path, key: str, history: History) -> tuple[int, float] | None:
    """The first epoch of a history with the best test accuracy, and that accuracy; None where none was asked for."""
    epochs = {row["epoch"] for row in history}
    found = {epoch: value for epoch, value in oracle_accuracies(folder, key).items() if epoch in epochs}
    return max(found.items(), key=lambda item: item[1]) if found else None
