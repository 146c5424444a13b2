"""The jobs of a sweep in lines: those that end, those that run, how long the rest may take."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from graft.reports.notes import reason
from graft.reports.tables import ACCURACY
from graft.reports.terminal import percent, points


def finished_line(position: str, number: str, title: str, record: Mapping[str, Any]) -> str:
    """A job that ended: how many of all these are, which it was, and what came of it."""
    if record["status"] != "done":
        return f"{position}  job {number} failed: {reason(record)}" + (f" ({title})" if title else "")
    gain = record["transfer"].get("gain")
    figures = [percent(record["metrics"][ACCURACY]), *([points(gain)] if gain is not None else [])]
    figures.append(f"{record['cost']['total_seconds']:.1f} s")
    return "  ".join([position, f"job {number}", *([title] if title else []), ", ".join(figures)])


def counts_line(counts: Mapping[str, int], seconds_left: float | None) -> str:
    """How many jobs are in each state, in the order given, and how long the rest may take.

    >>> counts_line({"done": 3, "failed": 0, "running": 1, "queued": 8}, 75.0)
    '12 jobs: 3 done, 1 running, 8 queued; about 1:15 left'
    """
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    left = "" if seconds_left is None else f"; about {clock(seconds_left)} left"
    return f"{sum(counts.values())} jobs: {states}{left}"


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds.

    >>> clock(75.4), clock(3725)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def seconds_left(elapsed: float, num_ended: int, num_left: int) -> float | None:
    """At the pace so far, however many run at once; None before the first job ended, and when none is left.

    >>> seconds_left(10.0, 4, 6), seconds_left(3.0, 0, 10)
    (15.0, None)
    """
    return elapsed / num_ended * num_left if num_ended and num_left else None


def running_table(rows: Sequence[tuple[str, str, str]], summary: str, most: int) -> Table:
    """The jobs that run, (number, title, how far it is) each and at most so many of them, above a summary."""
    hidden = len(rows) - most
    names = [f"job {number}" for number, _, _ in rows[:most]]
    jobs = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    jobs.add_column(no_wrap=True, min_width=max(map(len, names), default=0))
    jobs.add_column(no_wrap=True, overflow="ellipsis")
    jobs.add_column(no_wrap=True, overflow="ellipsis")
    for name, (_, title, position) in zip(names, rows, strict=False):
        jobs.add_row(Text(name, style="cyan"), Text(title), Text(position, style="dim"))
    whole = Table.grid()
    if rows:
        whole.add_row(jobs)
    if hidden > 0:
        whole.add_row(Text(f"and {hidden} more", style="dim"))
    whole.add_row(Text(summary, style="bold", no_wrap=True, overflow="ellipsis"))
    return whole
