"""Many processes that ask for the same at once: the work is done once, all get it, and a dead holder blocks nobody.

The same pretrained backbone, baseline, features of a frozen backbone and cached images, and the same sweep. The first
process to be at work on each is killed.
"""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

from graft_processes import POLL, Graft, Process
from victims import Case

RUN = "lp_ft"  # has a source stage, features of a frozen prefix, and a baseline
SWEEP = "sweep"


def race(graft: Graft, num: int, work: Path) -> bool:
    """Let so many processes ask at once; prints what came of it; whether anything was not as it should be."""
    return any([race_for_store(graft, num, work), race_for_sweep(graft, num, work)])


def race_for_store(graft: Graft, num: int, work: Path) -> bool:
    """Runs that differ in nothing but their folder, with one store; the first that makes the backbone is killed."""
    folder = work / "store"
    folder.mkdir()
    case = Case(RUN, work / RUN, graft)
    processes = {}
    for number in range(num):
        overrides = [f"paths.outputs={folder}/outputs/{number}", *case.overrides(folder)[:-2]]
        log = folder / f"{number}.log"
        processes[number] = graft.start([*overrides, f"paths.store={folder}/store"], log, folder=folder)
    killed = kill_maker(folder / "store" / "backbone", processes)
    codes = {number: process.wait().code for number, process in processes.items() if number != killed}
    records = sorted((folder / "outputs").rglob("record.json"))
    done = [json.loads(path.read_text()) for path in records]
    done = [record for record in done if record["status"] == "done"]
    accuracies = {record["metrics"]["target/test/accuracy"] for record in done}
    logs = [path.read_text() for path in folder.glob("*.log")]
    made = sum("from the store" not in line for text in logs for line in pretrained(text))
    entries = Counter(path.parts[-4] for path in (folder / "store").glob("*/*/*/manifest.json"))
    print(
        f"{num} runs at once, the one that pretrained killed: {len(done)} done, pretrained {made} time(s), "
        f"{len(accuracies)} result(s); in the store: {dict(entries)}"
    )
    return set(codes.values()) != {0} or made != 1 or len(accuracies) != 1 or len(done) != num - 1


def kill_maker(kind: Path, processes: dict[int, Process]) -> int:
    """Wait until an entry is being made, and kill the process that has its lock; returns which one that was."""
    while not list(kind.glob("*/.*")):
        time.sleep(POLL)
    return kill_one(processes, next((kind.parent / "locks").glob(f"{kind.name}-*")))


def kill_holder(folder: Path, processes: list[Process]) -> int:
    """Wait until a job of the sweep has begun, and kill the process that has the sweep's lock."""
    while not list(folder.rglob("record.json")):
        time.sleep(POLL)
    return kill_one(dict(enumerate(processes)), next((folder / "outputs").rglob("sweep.json")).with_name("run.lock"))


def kill_one(processes: dict[int, Process], lock: Path) -> int:
    """Kill the process that holds a lock."""
    inode = str(lock.stat().st_ino)
    fields = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    holder = next(line[4] for line in fields if "->" not in line and line[5].split(":")[-1] == inode)
    number = next(number for number, process in processes.items() if str(process.pid) == holder)
    os.killpg(processes[number].pid, signal.SIGKILL)
    processes[number].wait()
    return number


def pretrained(text: str) -> list[str]:
    """The lines of a run's log that say where its backbone came from."""
    return [line for line in text.splitlines() if line.startswith("pretrain ") and "test accuracy" in line]


def race_for_sweep(graft: Graft, num: int, work: Path) -> bool:
    """The same named sweep by many: one is at work on it and is killed; the next goes on, and all get the results."""
    folder = work / "sweep"
    folder.mkdir()
    case = Case(SWEEP, work / SWEEP, graft)
    command = [*case.overrides(folder), "sweep.name=together"]
    processes = [graft.start(command, folder / f"{number}.log", folder=folder) for number in range(num)]
    killed = kill_holder(folder, processes)
    codes = Counter(process.wait().code for number, process in enumerate(processes) if number != killed)
    logs = [path.read_text() for path in folder.glob("*.log")]
    waited = sum("waiting for another process" in text for text in logs)
    found = sum("2 of 2 jobs are done already" in text for text in logs)
    records = sorted((folder / "outputs" / "sweeps" / "together").glob("*/record.json"))
    statuses = Counter(json.loads(path.read_text())["status"] for path in records)
    print(
        f"{num} processes for one sweep of two jobs, the first killed: {codes[0]} ended with its results; {waited} "
        f"waited, {found} found all jobs done; jobs {dict(statuses)}"
    )
    return statuses != {"done": 2} or codes[0] != num - 1 or found != num - 2
