"""Processes of graft, each in a process group of its own, that end at a chosen moment."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
POLL = 0.004  # seconds
FILE_EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class Moment:
    """When to send the signal: once the process has used so many CPU seconds, or before its n-th change of a file."""

    cpu_seconds: float | None = None
    change: int | None = None


@dataclass(frozen=True)
class End:
    """How a process ended."""

    code: int  # negative: by that signal
    cpu_seconds: float
    changes: int  # of files, or 0 where they were not counted
    waited: float | None = None  # seconds from the signal to the end
    path: str = ""  # what the process was about to change when it ended itself


class Graft:
    """Starts graft: as a fork of this process, which has imported it already, or anew."""

    def __init__(self, fresh: bool = False) -> None:
        self.fresh = fresh
        if not fresh:
            warm_up()

    def run(
        self,
        arguments: Sequence[str],
        log: Path,
        moment: Moment | None = None,
        number: signal.Signals = signal.SIGKILL,
        folder: Path | None = None,
    ) -> End:
        """Run the command in a folder, with its output appended to `log`, until it ends or its moment comes."""
        process = self.start(arguments, log, moment, number, folder)
        return process.wait(moment, number)

    def start(
        self,
        arguments: Sequence[str],
        log: Path,
        moment: Moment | None = None,
        number: signal.Signals = signal.SIGKILL,
        folder: Path | None = None,
    ) -> "Process":
        """Begin."""
        changes = log.with_suffix(".changes")
        changes.unlink(missing_ok=True)
        if self.fresh:
            with log.open("ab") as output:
                command = [sys.executable, "-m", "graft", *arguments]
                child = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, start_new_session=True)
            return Process(child.pid, changes)
        pid = os.fork()
        if pid == 0:
            be_graft(arguments, log, changes, moment, number, folder)
        return Process(pid, changes)


@dataclass
class Process:
    """One that was started."""

    pid: int
    changes: Path

    def wait(self, moment: Moment | None = None, number: signal.Signals = signal.SIGKILL) -> End:
        """Until it ends; its group is sent the signal once it has used its CPU time."""
        limit = moment.cpu_seconds if moment is not None else None
        sent: float | None = None
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if limit is not None and sent is None and cpu_seconds(self.pid) >= limit:
                os.killpg(self.pid, number)
                sent = time.monotonic()
            time.sleep(POLL)
        waited = time.monotonic() - sent if sent is not None else None
        counted = self.changes.read_text().split("\t") if self.changes.exists() else ["0", ""]
        used = usage.ru_utime + usage.ru_stime
        return End(os.waitstatus_to_exitcode(status), used, int(counted[0]), waited, counted[1])


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def warm_up() -> None:
    """Import what a run needs."""
    import pytorch_lightning  # noqa: F401
    import torch

    import graft.build.assembly
    import graft.cli.commands.resume
    import graft.cli.commands.run
    import graft.pipeline
    import graft.reports.terminal  # noqa: F401

    torch.set_num_threads(1)  # a fork has none of its parent's threads


def be_graft(
    arguments: Sequence[str], log: Path, changes: Path, moment: Moment | None, number: int, folder: Path | None
) -> None:
    """Turn this process, a fork, into graft; does not return."""
    from graft.cli.main import main

    code = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if folder is not None:
            os.chdir(folder)
        hook = count_changes(changes, moment.change if moment is not None else None, number)
        sys.addaudithook(hook)
        code = main(list(arguments))
        sys.stdout.flush()
        hook("the end", ())
    finally:
        os._exit(code)


def count_changes(changes: Path, fatal: int | None, number: int) -> Callable[[str, Any], None]:
    """An audit hook that counts changes of files, and sends this process the signal before the fatal one."""
    own, num, ended = os.getpid(), 0, False

    def hook(event: str, details: Any) -> None:
        nonlocal num, ended
        if ended or os.getpid() != own:
            return
        if event == "the end":
            ended = True
            changes.write_text(f"{num}\t")
        elif event in FILE_EVENTS and changes_files(event, details):
            num += 1
            if num == fatal:
                ended = True
                changes.write_text(f"{num}\t{event} {details[0]}")
                os.kill(own, number)

    return hook


def changes_files(event: str, details: Any) -> bool:
    """Whether an event is more than a file that is opened to be read."""
    if not isinstance(details[0], str | os.PathLike) or str(details[0]).startswith(("/dev/null", "/proc")):
        return False
    return event != "open" or bool(details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
