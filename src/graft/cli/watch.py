"""Shows the jobs of a sweep while they run, by what they leave in their folders."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Event, Thread

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from graft.cli.folders import LOCK, status_of
from graft.cli.jobs import NOTE
from graft.cli.states import DONE, FAILED, QUEUED, RUNNING
from graft.errors import UserError
from graft.records.files import is_locked
from graft.records.record import RECORD, load_record
from graft.reports.console import make_console
from graft.reports.jobs import counts_line, finished_line, running_table, seconds_left

EVERY = 0.5  # seconds between looks


@contextmanager
def watched(jobs: Sequence[tuple[Path, str]], num_before: int, num_all: int) -> Iterator[None]:
    """Print a line for each job that ends meanwhile; on a terminal, the jobs that run stand below.

    Args:
        jobs: (folder, title) of each job to be run, in order.
        num_before: how many jobs of the sweep were done before.
        num_all: how many jobs the sweep has.
    """
    console = make_console()
    watch = Watch(jobs, num_before, num_all, console)
    over = Event()
    with Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else nullcontext() as live:

        def look() -> None:
            watch.look()
            if live is not None:
                live.update(watch.table(), refresh=True)

        def look_again_and_again() -> None:
            while not over.wait(EVERY):
                look()

        thread = Thread(target=look_again_and_again, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            watch.look()


class Watch:
    """What is known of the jobs that are launched."""

    def __init__(self, jobs: Sequence[tuple[Path, str]], num_before: int, num_all: int, console: Console) -> None:
        self.states = dict.fromkeys((folder for folder, _ in jobs), QUEUED)
        self.titles = dict(jobs)
        self.num_before = num_before
        self.num_all = num_all
        self.console = console
        self.began = time.monotonic()
        self.ended: list[Path] = []
        # A job that is tried again has the record of its failure until it begins.
        self.old = {folder: stamp(folder) for folder, _ in jobs}

    def look(self) -> None:
        """See what became of the jobs, and print those that ended."""
        for folder in [each for each, state in self.states.items() if state not in (DONE, FAILED)]:
            is_old = stamp(folder) == self.old[folder]
            if not is_old and (status := status_of(folder / RECORD)) in (DONE, FAILED):
                self.states[folder] = str(status)
                self.ended.append(folder)
                self.show(folder)
            elif is_locked(folder / LOCK):
                self.states[folder] = RUNNING

    def show(self, folder: Path) -> None:
        """Print the line of a job that ended; one whose record is damaged is named when the sweep is over."""
        with suppress(UserError):
            position = f"{self.num_before + len(self.ended):>{len(str(self.num_all))}} of {self.num_all}"
            record = load_record(folder)
            line = finished_line(position, folder.name, self.titles[folder], record)
            style = "red" if record["status"] == FAILED else ""
            self.console.print(Text(line, style=style), soft_wrap=True)

    def table(self) -> Table:
        """The jobs that run, and how many there are of all kinds."""
        counts = Counter(self.states.values())
        shown = {state: counts[state] for state in (DONE, FAILED, RUNNING, QUEUED)}
        shown[DONE] += self.num_before
        left = seconds_left(time.monotonic() - self.began, len(self.ended), counts[RUNNING] + counts[QUEUED])
        running = [
            (folder.name, self.titles[folder], how_far(folder))
            for folder, state in self.states.items()
            if state == RUNNING
        ]
        return running_table(running, counts_line(shown, left), most=max(1, self.console.height - 4))


def stamp(folder: Path) -> int | None:
    """When the record was written, None where there is none."""
    with suppress(FileNotFoundError):
        return (folder / RECORD).stat().st_mtime_ns
    return None


def how_far(folder: Path) -> str:
    """What a job noted last of how far it is."""
    with suppress(FileNotFoundError):
        return (folder / NOTE).read_text(encoding="utf-8")
    return ""
