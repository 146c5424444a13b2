"""Runs on disks that are too small, enlarged again and again until the run is done, and compared with undisturbed ones.

A disk is a file system in memory of a chosen size, which only root can mount.
"""

import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graft_processes import Graft
from victims import Case, command, tell, wrong_in

NO_ROOM = "No space left on device"
PAGE = 4096
MOST_ENLARGED = 4  # times; then there is room for everything
ROOMY = 2**30


def fill_disks(graft: Graft, num: int, names: list[str], seed: int, work: Path) -> bool:
    """Let `num` runs meet a full disk, each up to four times; whether anything ended otherwise than it should."""
    rng = random.Random(seed)
    cases = [Case(name, work / name, graft) for name in names]
    met: Counter[str] = Counter()
    failed = False
    for number in range(num):
        case = cases[number % len(cases)]
        times, differences = trial(case, number, rng)
        met[case.name] += times
        failed |= bool(differences)
        tell(case, f"{times} times full", differences)
    print(f"\n{met.total()} times a full disk in {num} runs")
    return failed


def trial(case: Case, number: int, rng: random.Random) -> tuple[int, list[str]]:
    """How often the disk was full before the run was done, and what went otherwise than it should."""
    _, expected = case.undisturbed
    needed = sum(path.stat().st_blocks * 512 for path in (case.folder / "undisturbed").rglob("*"))
    disk, log = case.folder / f"disk-{number}", case.folder / f"disk-{number}.log"
    size, times = rng.uniform(0, 0.6) * needed, 0
    with mounted(disk, size):
        while True:
            said = len(log.read_text()) if log.exists() else 0
            end = case.graft.run(command(case, disk), log, folder=disk)
            if end.code == 0:
                return times, list(wrong_in(disk, expected))
            words = log.read_text()[said:]
            if end.code != 1 or NO_ROOM not in words or "Traceback" in words:
                return times, [f"ended with {end.code}: {words[-800:]}"]
            times += 1
            size = ROOMY if times == MOST_ENLARGED else size + rng.uniform(0.05, 0.3) * needed
            mount(disk, size, "remount,")


@contextmanager
def mounted(folder: Path, size: float) -> Iterator[None]:
    """A file system in memory with so many bytes of room for files."""
    folder.mkdir()
    mount(folder, size)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def mount(folder: Path, size: float, how: str = "") -> None:
    """Mount it, or `remount,` it with another size."""
    room = max(1, round(size / PAGE)) * PAGE
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{how}size={room}", "graft", str(folder)], check=True)
