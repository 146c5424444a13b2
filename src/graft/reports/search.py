"""What came of a search: its best trials, how many there were, and which of the searched keys matter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from graft.reports.settings import ABSENT, short_names

MOST_TRIALS = 10  # in the table
DIGITS = 4


@dataclass(frozen=True)
class Trial:
    """One trial in plain values."""

    number: int
    job: str  # the folder of its run, as one would type it
    state: str  # "complete", "pruned", "failed" or "running"
    params: Mapping[str, Any]
    value: float | None  # of a pruned one, the metric after its last epoch
    epochs: int | None  # that it reported


@dataclass(frozen=True)
class SearchResult:
    """A search as it stands."""

    metric: str
    maximises: bool
    wanted: int  # trials in all
    trials: Sequence[Trial]
    importances: Mapping[str, float]  # share of each key in the metric's variance; empty where that is not known

    def in_state(self, state: str) -> list[Trial]:
        """The trials in one state."""
        return [trial for trial in self.trials if trial.state == state]

    @property
    def best(self) -> list[Trial]:
        """The complete trials, the best first; of equals the earlier one."""
        sign = -1.0 if self.maximises else 1.0
        return sorted(self.in_state("complete"), key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def print_search(result: SearchResult, console: Console) -> None:
    """The best trials, how many ended how, the best one's overrides, and the importances."""
    console.print()
    if result.best:
        console.print(trials_table(result))
    console.print(Text(counts(result), style="dim"))
    if result.best:
        best = result.best[0]
        text = f": {result.metric} {figure(best.value)}, {overrides(best)} ({best.job})"
        console.print(Text.assemble(("best", "bold"), text), soft_wrap=True)
    if result.importances:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in result.importances.items())
        console.print(Text.assemble(("importance", "bold"), f": {shares} (PED-ANOVA, of the complete trials)"))
    elif result.best:
        console.print(Text("importance: not known; it takes several complete trials that differ", style="dim"))


def trials_table(result: SearchResult) -> Table:
    """A line for each of the best trials."""
    names = list(dict.fromkeys(name for trial in result.best for name in trial.params))
    short = short_names(names)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("trial", justify="right")
    for name in names:
        table.add_column(short[name], overflow="fold")
    table.add_column(result.metric, justify="right", no_wrap=True)
    for trial in result.best[:MOST_TRIALS]:
        values = (shown(trial.params.get(name, ABSENT)) for name in names)
        table.add_row(str(trial.number), *map(Text, values), figure(trial.value))
    return table


def counts(result: SearchResult) -> str:
    """How many trials ended how.

    >>> counts(SearchResult("val/accuracy", True, 3, [Trial(0, "0", "pruned", {}, 0.5, 2)], {}))
    '1 of 3 trials: 0 complete, 1 pruned (after 2 epochs), 0 failed'
    """
    ended = {state: len(result.in_state(state)) for state in ("complete", "pruned", "failed")}
    epochs = sorted(trial.epochs for trial in result.in_state("pruned") if trial.epochs is not None)
    when = ""
    if epochs:
        several = f"{epochs[0]} to {epochs[-1]}" if epochs[0] != epochs[-1] else str(epochs[0])
        when = f" (after {several} epoch{'' if several == '1' else 's'})"
    text = f"{len(result.trials)} of {result.wanted} trials: {ended['complete']} complete, "
    text += f"{ended['pruned']} pruned{when}, {ended['failed']} failed"
    running = len(result.in_state("running"))
    return text + (f", {running} still running or cut off" if running else "")


def overrides(trial: Trial) -> str:
    """What the trial chose, as one would type it."""
    return " ".join(f"{name}={value}" for name, value in trial.params.items())


def shown(value: Any) -> str:
    """A value with as many digits as a reader wants.

    >>> shown(0.0123456), shown("lp_ft"), shown(3)
    ('0.01235', 'lp_ft', '3')
    """
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def figure(value: float | None) -> str:
    """A metric with four decimals."""
    return ABSENT if value is None else f"{value:.{DIGITS}f}"
