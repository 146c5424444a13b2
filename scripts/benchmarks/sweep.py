"""Sweeps: what a short job costs above its fit, and what two jobs at a time gain."""

import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from harness import Repetition, Row, seconds, seconds_at_most, speedup
from parts import new_network, random_domain
from running import GRAFT, run

from graft.data.domain import Domain
from graft.evaluation import evaluate
from graft.models.backbones.cnn import Cnn

PROCESSES, SCORING = "a process a job", "scoring all test images alone"
TUNE, TUNE_RECORDS = "graft -m, fine-tuning", "graft -m, fine-tuning, by its records"
PROBE, PROBE_RECORDS = "graft -m, linear probes", "graft -m, linear probes, by its records"
TINY = ("baselines=[]", "pretrain.max_epochs=1", "trainer.max_epochs=1", "logger=none", "trainer=cpu")
NUM_SCORED = 2988  # test and val images of the digits, and test images of the glyphs

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
    """One run of each kind beforehand pretrains and keeps features, so that all that are measured find them."""
    num_rates = 2 if quick else 4
    domain = random_domain(folder, NUM_SCORED, 32, Cnn().preprocessing, 64)

    def graft(*words: str) -> tuple[float, list[dict[str, Any]]]:
        outputs = tempfile.mkdtemp(dir=folder)
        took = run([*GRAFT, *words, *TINY, f"paths.outputs={outputs}", f"paths.store={folder / 'store'}"])
        return took, costs(Path(outputs))

    def sweep(strategy: str, start: float) -> tuple[float, float]:
        """Seconds above its fit of a job beyond the first, by the clock and by its record."""
        words = ("-m", f"strategy={strategy}", rates(1, num_rates), "seed=0,1", "pretrain.seed=0")
        took, jobs = graft(*words)
        others = took - sum(job["fit_seconds"] for job in jobs) - start
        return others / (len(jobs) - 1), mean(above_fit(job) for job in jobs[1:])

    def repetition() -> dict[str, float]:
        alone, [single] = graft()
        start = alone - single["fit_seconds"]  # what is left of a sweep without a process with one job are the others
        tune, probe = sweep("fine_tune", start), sweep("linear_probe", start)
        scoring = seconds(lambda: evaluate_as_a_run(domain))
        return {
            PROCESSES: start,
            TUNE: tune[0],
            TUNE_RECORDS: tune[1],
            SCORING: scoring,
            PROBE: probe[0],
            PROBE_RECORDS: probe[1],
        }

    graft("-m", "strategy=fine_tune,linear_probe")
    return repetition


def evaluate_as_a_run(domain: Domain) -> None:
    """Score the `cnn` on all training images with as many threads as a run uses for it, one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    evaluate(new_network(Cnn), domain, "train", torch.device("cpu"))
    torch.set_num_threads(before)


def prepare_parallel(quick: bool, folder: Path) -> Repetition:
    """Fits of the `cnn` on glyphs, each long enough for its threads to matter; imports are left out."""
    num_jobs, num_epochs = (2, 1) if quick else (4, 4)
    fit = (*REAL, "trainer=cpu", f"trainer.max_epochs={num_epochs}", f"target.num_samples={4000 if quick else 8000}")

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
        tuple(seconds_at_most(side, 0.05) for side in (TUNE, TUNE_RECORDS, PROBE, PROBE_RECORDS)),
        f"jobs of one epoch on the digits that differ in learning rate and seed, pretrained once for all; fine-tuned "
        f"networks are scored on {NUM_SCORED:,} test images, probes from features that all share; by the clock, "
        "Hydra's composing and copying of a job's configuration comes on top of what the record says",
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
