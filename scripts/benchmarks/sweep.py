"""Sweeps: what a short job costs above its fit, and what two jobs at a time gain."""

import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from harness import Repetition, Row, seconds_at_most, speedup
from running import GRAFT, run

PROCESSES, SWEEP = "a process a job", "graft -m"
RECORDS = "graft -m, by its records"
TINY = ("baselines=[]", "pretrain.max_epochs=1", "trainer.max_epochs=1", "logger=none", "trainer=cpu")

DEFAULT_THREADS = "two at a time, torch's own threads"
TOGETHER, ALONE = "graft, two at a time", "graft, one by one"
TORCH_THREADS = (sys.executable, str(Path(__file__).with_name("default_threads.py")))
REAL = ("source=none", "target=glyphs", "target.batch_size=64", "strategy=scratch", "baselines=[]", "logger=none")


def costs(outputs: Path) -> list[dict[str, Any]]:
    """What the records below a folder say about cost, in the order in which the runs ended."""
    paths = sorted(outputs.rglob("record.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text())["cost"] for path in paths]


def above_fit(cost: dict[str, Any]) -> float:
    """Seconds of a run above its fit."""
    return float(cost["total_seconds"] - cost["fit_seconds"])


def rates(first: int, num: int) -> str:
    """The override of a sweep of so many jobs that differ in nothing but the learning rate."""
    return f"optimizer.lr={','.join(f'{job}e-3' for job in range(first, first + num))}"


def prepare_short(quick: bool, folder: Path) -> Repetition:
    """One run beforehand pretrains, so that all that are measured find the backbone in the store."""
    num_jobs = 4 if quick else 8

    def graft(*words: str) -> tuple[float, list[dict[str, Any]]]:
        outputs = tempfile.mkdtemp(dir=folder)
        took = run([*GRAFT, *words, *TINY, f"paths.outputs={outputs}", f"paths.store={folder / 'store'}"])
        return took, costs(Path(outputs))

    def repetition() -> dict[str, float]:
        alone, [single] = graft()
        together, jobs = graft("-m", rates(1, num_jobs))
        # What is left when a process with one job is taken away are the other jobs.
        others = together - sum(job["fit_seconds"] for job in jobs) - (alone - single["fit_seconds"])
        return {
            PROCESSES: alone - single["fit_seconds"],
            SWEEP: others / (num_jobs - 1),
            RECORDS: mean(above_fit(job) for job in jobs[1:]),
        }

    graft()
    return repetition


def prepare_parallel(quick: bool, folder: Path) -> Repetition:
    """Fits of the `cnn` on all glyphs, each long enough for its threads to matter; imports are left out."""
    num_jobs, num_epochs = (2, 1) if quick else (4, 4)
    fit = (*REAL, "trainer=cpu", f"trainer.max_epochs={num_epochs}")

    def seconds_a_job(*commands: Sequence[str], at_once: int) -> float:
        """Run the commands at the same time; each job's own time over the number of jobs that run at once."""
        outputs = tempfile.mkdtemp(dir=folder)
        where = (f"paths.outputs={outputs}", f"paths.store={folder / 'store'}")
        with ThreadPoolExecutor(len(commands)) as pool:
            list(pool.map(lambda command: run([*command, *fit, *where]), commands))
        return mean(cost["total_seconds"] for cost in costs(Path(outputs))) / at_once

    def repetition() -> dict[str, float]:
        half = num_jobs // 2
        halves = [(*TORCH_THREADS, "-m", rates(first, half)) for first in (1, 1 + half)]
        together = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
        return {
            DEFAULT_THREADS: seconds_a_job(*halves, at_once=2),
            TOGETHER: seconds_a_job((*GRAFT, "-m", rates(1, num_jobs), *together), at_once=2),
            ALONE: seconds_a_job((*GRAFT, "-m", rates(1, num_jobs)), at_once=1),
        }

    return repetition


ROWS = (
    Row(
        "sweep",
        "a short job of a sweep, above its fit",
        "s",
        prepare_short,
        (seconds_at_most(SWEEP, 0.05), seconds_at_most(RECORDS, 0.05)),
        "jobs of one epoch on the digits, pretrained once for all; scoring 2,988 test images is most of what remains",
    ),
    Row(
        "parallel",
        "a job of a sweep, two at a time on all cores",
        "s",
        prepare_parallel,
        (speedup(TOGETHER, DEFAULT_THREADS, 2.0), speedup(TOGETHER, ALONE, 1.0)),
        "the time of a job by its record, over the number of jobs that run at once",
    ),
)
