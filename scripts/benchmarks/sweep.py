"""Sweeps: what a short job costs above its fit, and what two jobs at a time gain."""

import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from harness import Goal, Repetition, Row, seconds, share, speedup
from parts import new_network, random_domain
from running import GRAFT, HYDRA_ALONE, run

from graft.data.domain import Domain
from graft.evaluation import evaluate
from graft.models.backbones.cnn import Cnn

PROCESSES, SCORING = "a process a job, once", "scoring all test images alone"
HYDRA = "Hydra's own loop, empty jobs"
TUNE, TUNE_RECORDS = "graft -m, fine-tuning", "graft -m, fine-tuning, by its records"
PROBE, PROBE_RECORDS = "graft -m, linear probes", "graft -m, linear probes, by its records"
KINDS = {"fine_tune": (TUNE, TUNE_RECORDS), "linear_probe": (PROBE, PROBE_RECORDS)}
TINY = ("baselines=[]", "pretrain.max_epochs=1", "trainer.max_epochs=1", "logger=none", "trainer=cpu")
NUM_SCORED = 2988  # test and val images of the digits, and test images of the glyphs
NUM_JOBS = 8  # of each kind
OVER_HYDRA = 0.05 / 0.036  # seconds a job that were asked for, where Hydra's own loop took the others

DEFAULT_THREADS = "two at a time, torch's own threads"
TOGETHER, ALONE = "graft, two at a time", "graft, one by one"
TORCH_THREADS = (sys.executable, str(Path(__file__).with_name("default_threads.py")))
REAL = ("source=none", "target=glyphs", "target.batch_size=64", "strategy=scratch", "baselines=[]", "logger=none")


def records(outputs: Path) -> list[tuple[float, dict[str, Any]]]:
    """The records below a folder, in the order in which they were written last, with the time of it in seconds."""
    paths = sorted(outputs.rglob("record.json"), key=lambda path: path.stat().st_mtime)
    return [(path.stat().st_mtime, json.loads(path.read_text())) for path in paths]


def above_fit(cost: dict[str, Any]) -> float:
    """Seconds of a run above its fit."""
    return float(cost["total_seconds"] - cost["fit_seconds"])


def seconds_between(moments: Sequence[float]) -> float:
    """The mean from each to the next."""
    return (moments[-1] - moments[0]) / (len(moments) - 1)


def rates(first: int, num: int) -> str:
    """The override of a sweep of so many jobs that differ in nothing but the learning rate."""
    return f"optimizer.lr={','.join(f'{job}e-3' for job in range(first, first + num))}"


def prepare_short(quick: bool, folder: Path) -> Repetition:
    """Jobs beforehand pretrain and keep features, so that all that are measured find them."""
    domain = random_domain(folder, NUM_SCORED, 32, Cnn().preprocessing, 64)

    def graft(*words: str) -> tuple[float, list[tuple[float, dict[str, Any]]]]:
        outputs = tempfile.mkdtemp(dir=folder)
        took = run([*GRAFT, *words, *TINY, f"paths.outputs={outputs}", f"paths.store={folder / 'store'}"])
        return took, records(Path(outputs))

    def sweep() -> dict[str, float]:
        """Seconds above its fit of a job that follows another of its kind, by the clock and by its record."""
        kinds = f"strategy={','.join(KINDS)}"
        _, jobs = graft("-m", kinds, rates(1, NUM_JOBS // 2), "seed=0,1", "pretrain.seed=0")
        figures = {}
        for strategy, (by_clock, by_record) in KINDS.items():
            own = [(moment, job["cost"]) for moment, job in jobs if job["config"]["strategy"]["name"] == strategy]
            fit = mean(cost["fit_seconds"] for _, cost in own[1:])
            figures[by_clock] = seconds_between([moment for moment, _ in own]) - fit
            figures[by_record] = mean(above_fit(cost) for _, cost in own[1:])
        return figures

    graft("-m", f"strategy={','.join(KINDS)}")
    took, [(_, single)] = graft()
    alone = {PROCESSES: took - single["cost"]["fit_seconds"]}
    return lambda: {
        HYDRA: hydra_loop(folder),
        **alone,
        SCORING: median(seconds(lambda: evaluate_as_a_run(domain)) for _ in range(NUM_JOBS)),
        **sweep(),
    }


def hydra_loop(folder: Path) -> float:
    """Seconds from one job to the next of a Hydra application that does nothing and has no configuration."""
    outputs = Path(tempfile.mkdtemp(dir=folder))
    run([*HYDRA_ALONE, "-m", f"+job={','.join(map(str, range(2 * NUM_JOBS)))}", f"hydra.sweep.dir={outputs}"])
    return seconds_between(sorted(path.stat().st_mtime for path in outputs.glob("*/.hydra/overrides.yaml")))


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
        return mean(record["cost"]["total_seconds"] for _, record in records(Path(outputs))) / at_once

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
        (
            share(PROBE, HYDRA, at_most=OVER_HYDRA),
            Goal(
                f"{TUNE}, without scoring: at most {OVER_HYDRA:.3g}x {HYDRA}",
                lambda figures: (figures[TUNE] - figures[SCORING]) / figures[HYDRA],
                at_most=OVER_HYDRA,
            ),
        ),
        f"jobs of one epoch on the digits that differ in learning rate and seed, pretrained once for all; fine-tuned "
        f"networks are scored on {NUM_SCORED:,} test images, probes from features that all share; the goal is 0.05 s "
        "where Hydra's own loop takes 0.036; that loop, or graft's in its place, is in the figures by the clock alone",
        quick_repeats=1,
    ),
    Row(
        "parallel",
        "a job of a sweep, two at a time on all cores",
        "s",
        prepare_parallel,
        (speedup(TOGETHER, DEFAULT_THREADS, 2.0), speedup(TOGETHER, ALONE, 1.0)),
        "the time of a job by its record, over the number of jobs that run at once",
        quick_repeats=1,
    ),
)
