"""A sweep of short jobs: what a job costs above its fit, in one process and in a process of its own."""

import json
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from harness import Repetition, Row, seconds_at_most
from running import GRAFT, run

PROCESSES, SWEEP = "a process a job", "graft -m"
RECORDS = "graft -m, by its records"
TINY = ("baselines=[]", "pretrain.max_epochs=1", "trainer.max_epochs=1", "logger=none", "trainer=cpu")


def costs(outputs: Path) -> list[dict[str, Any]]:
    """What the records below a folder say about cost, in the order in which the runs ended."""
    paths = sorted(outputs.rglob("record.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text())["cost"] for path in paths]


def above_fit(cost: dict[str, Any]) -> float:
    """Seconds of a run above its fit."""
    return float(cost["total_seconds"] - cost["fit_seconds"])


def prepare(quick: bool, folder: Path) -> Repetition:
    """One run beforehand pretrains, so that all that are measured find the backbone in the store."""
    num_jobs = 4 if quick else 8
    rates = ",".join(f"{job}e-3" for job in range(1, num_jobs + 1))

    def graft(*words: str) -> tuple[float, list[dict[str, Any]]]:
        outputs = tempfile.mkdtemp(dir=folder)
        took = run([*GRAFT, *words, *TINY, f"paths.outputs={outputs}", f"paths.store={folder / 'store'}"])
        return took, costs(Path(outputs))

    def repetition() -> dict[str, float]:
        alone, [single] = graft()
        together, jobs = graft("-m", f"optimizer.lr={rates}")
        # What is left when a process with one job is taken away are the other jobs.
        others = together - sum(job["fit_seconds"] for job in jobs) - (alone - single["fit_seconds"])
        return {
            PROCESSES: alone - single["fit_seconds"],
            SWEEP: others / (num_jobs - 1),
            RECORDS: mean(above_fit(job) for job in jobs[1:]),
        }

    graft()
    return repetition


ROW = Row(
    "sweep",
    "a short job of a sweep, above its fit",
    "s",
    prepare,
    (seconds_at_most(SWEEP, 0.05), seconds_at_most(RECORDS, 0.05)),
    "jobs of one epoch on the digits, pretrained once for all",
)
