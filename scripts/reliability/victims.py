"""Small runs of many kinds, what each leaves when nothing disturbs it, and what it leaves when it is killed."""

import random
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from graft_processes import End, Graft, Moment
from PIL import Image
from safetensors import safe_open

from graft.callbacks.checkpoints import read_last_checkpoint
from graft.errors import UserError
from graft.preemption import EXIT_CODE, GRACE
from graft.records.record import load_record
from graft.records.store import find_damage

COMMON = (
    "source.characters=digits", "source.num_samples=160", "source.num_test_samples=40", "source.size=16",
    "target=glyphs", "target.characters=digits", "target.num_samples=160", "target.num_test_samples=40",
    "target.size=16", "target.seed=1", "backbone=lenet", "pretrain.max_epochs=2", "checkpoints.every_minutes=0",
    "selection.images=60", "analysis.projector_images=0", "logger=none",
)  # fmt: skip
ADAPT = ("trainer.max_epochs=2", "analysis.feature_images=40")
CASES: dict[str, tuple[str, ...]] = {
    "scratch": ("strategy=scratch", "trainer.max_epochs=3", "logger=[tensorboard,csv]"),
    "linear_probe": ("strategy=linear_probe", "trainer.max_epochs=4", "target.augmentation=null"),
    "gradual_unfreeze": ("strategy=gradual_unfreeze", "trainer.max_epochs=5", "baselines=[]"),
    "lp_ft": ("strategy=lp_ft", "trainer.max_epochs=4", "target.augmentation=null", "after=wise_ft"),
    "plateau_unfreeze_best": ("strategy=plateau_unfreeze_best", "trainer.max_epochs=6", "baselines=[]"),
    "surgical_auto": ("strategy=surgical_auto", "trainer.max_epochs=2", "optimizer.lr=auto", "baselines=[]"),
    "ewc": ("regulariser=ewc", "trainer.max_epochs=2", "baselines=[]"),
    "lora": ("adapter=lora", "strategy=last_stage", "trainer.max_epochs=3", "baselines=[]"),
    "swa": ("callbacks=swa", "trainer.max_epochs=4", "baselines=[]"),
    "ema": ("callbacks=ema", "strategy=lp_ft", "trainer.max_epochs=3", "baselines=[]"),
    "image_folder": ("target=image_folder", "target.path={images}", "trainer.max_epochs=2", "baselines=[]"),
    "mcc": ("adaptation=mcc", *ADAPT),
    "dann": ("adaptation=dann", *ADAPT),
    "shot": ("adaptation=shot", "strategy=freeze_head", *ADAPT),
    "mean_teacher": ("adaptation=mean_teacher", *ADAPT),
    "sweep": ("-m", "seed=0,1", "strategy=linear_probe", "trainer.max_epochs=2", "baselines=[]"),
}
LEAST_LEFT = 0.15  # of a run, that an attempt is taken to have before it
OF_THE_MOMENT = re.compile(
    r"seconds|memory_bytes|^started$|^finished$|^checksum$|^config$|images_per_second|^tries$|^rate_seconds$"
)
LEFT_OVER = re.compile(r"^\..*\.[0-9a-f]{32}$|\.part$|^\.new\.ckpt$")
TARGET_KEYS = tuple(text for text in COMMON if text.startswith("target"))


@dataclass
class Case:
    """A run, and what it leaves undisturbed."""

    name: str
    folder: Path
    graft: Graft

    def overrides(self, folder: Path) -> list[str]:
        """The command line that writes below a folder."""
        own = CASES[self.name]
        common = [text for text in COMMON if text not in TARGET_KEYS or "target=image_folder" not in own]
        where = [f"paths.outputs={folder}/outputs", f"paths.store={folder}/store"]
        return [text.format(images=self.images) for text in (*common, *own)] + where

    @cached_property
    def images(self) -> Path:
        """A folder of small pictures of three classes."""
        rng, folder = np.random.default_rng(0), self.folder / "images"
        for label in ("a", "b", "c"):
            (folder / label).mkdir(parents=True)
            colour = rng.integers(0, 256, 3)
            for number in range(12):
                pixels = (colour + rng.normal(0, 40, (20, 20, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / label / f"{number}.png")
        return folder

    @cached_property
    def undisturbed(self) -> tuple[End, dict[str, Any]]:
        """How the run ends, and what it leaves."""
        folder = self.folder / "undisturbed"
        folder.mkdir(parents=True)
        end = self.graft.run(self.overrides(folder), folder / "log", folder=folder)
        assert end.code == 0, (folder / "log").read_text()[-3000:]
        return end, results(folder)


@dataclass
class Kill:
    """One signal that a run was sent."""

    stage: str
    moment: str
    seconds: float | None = None  # to the end of the process


@dataclass
class Trial:
    """A run that was killed again and again."""

    kills: list[Kill] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether it ended as the undisturbed one."""
        return not self.differences


def tell(case: Case, what: str, differences: Sequence[str]) -> None:
    """Say what a run went through, and whether it came out of it as the undisturbed one."""
    print(f"{case.name}: {what}{' and DIFFERENT' if differences else ''}", flush=True)
    for difference in differences:
        print(f"  {difference}", flush=True)


def trial(case: Case, number: int, rng: random.Random, most: int, how: signal.Signals) -> Trial:
    """Kill a run up to so many times, resume it until it is done, and compare."""
    reference, expected = case.undisturbed
    folder, found = case.folder / f"trial-{number}", Trial()
    folder.mkdir()
    log, used = folder / "log", 0.0
    while True:
        left = max(LEAST_LEFT, 1 - used / reference.cpu_seconds)
        moment = chosen_moment(reference, left, rng, case.graft.fresh) if len(found.kills) < most else None
        before, said = progress(folder), len(log.read_text()) if log.exists() else 0
        end = case.graft.run(command(case, folder), log, moment, how, folder)
        used += end.cpu_seconds
        if end.code == 0:
            break
        if end.code != (-signal.SIGKILL if how is signal.SIGKILL else EXIT_CODE):
            if how is signal.SIGTERM and end.code == -signal.SIGTERM and not before:
                continue  # it was not listening yet: nothing had begun
            found.differences.append(f"ended with {end.code}: {log.read_text()[said:][-600:]}")
            return found
        found.kills.append(Kill(stage(folder), kind(moment, end), end.waited))
        if how is signal.SIGTERM and (end.waited or 0) > GRACE + 1:
            found.differences.append(f"took {end.waited} s to end")
        found.differences += lost(before, progress(folder))
    found.differences += repeated(log.read_text())
    found.differences += wrong_in(folder, expected)
    return found


def chosen_moment(reference: End, left: float, rng: random.Random, fresh: bool) -> Moment:
    """A share of the undisturbed run's CPU time, or one of its changes of files, where so much of it is left to do."""
    if fresh or rng.random() < 0.5:
        return Moment(cpu_seconds=rng.random() * left * reference.cpu_seconds)
    return Moment(change=rng.randint(1, max(1, round(left * reference.changes))))


def kind(moment: Moment | None, end: End) -> str:
    """The moment in words."""
    assert moment is not None
    if moment.cpu_seconds is not None:
        return "a share of its CPU time"
    event, _, path = end.path.partition(" ")
    name = re.sub(r"[0-9a-f]{16,}", "*", Path(path).name) if path else "?"
    return f"before {event.removeprefix('os.')} of {re.sub(r'^[0-9-]{10}_.*', 'the folder', name)}"


def command(case: Case, folder: Path) -> list[str]:
    """What begins the run, or goes on with it."""
    begun = [path.parent for path in (folder / "outputs").glob("*/*/record.json")]
    begun = [path.parent for path in (folder / "outputs").glob("sweeps/*/sweep.json")] or begun
    return ["resume", str(begun[0])] if begun else case.overrides(folder)


def stage(folder: Path) -> str:
    """What a run was at when it ended."""
    records = sorted((folder / "outputs").rglob("record.json"), key=lambda path: path.stat().st_mtime)
    if not records:
        return "beginning"
    run = records[-1].parent
    if load_record(run)["status"] == "done":
        return "after the record was written"
    if (run / "weights" / "network.safetensors").exists():
        return "evaluation, baselines and record"
    for name in ("transfer", "pretrain"):
        if (run / name).is_dir():
            epochs, within, phase = position(run / name)
            inside = " (within an epoch)" if within else ""
            return f"{name}, before its first checkpoint" if not epochs + within else f"{name}, {phase}{inside}"
    return "loading and settling"


def position(folder: Path) -> tuple[int, int, str]:
    """Epochs that a stage has behind it, batches of the next, and the phase's number."""
    try:
        checkpoint = read_last_checkpoint(folder)
    except UserError:
        checkpoint = None
    if checkpoint is None:
        return 0, 0, ""
    left = checkpoint[1]["stage"]
    within = left["within_epoch"]["batches"] if left["within_epoch"] else 0
    return len(left["history"]), within, f"phase {left['phase_index'] + 1}"


def progress(folder: Path) -> dict[str, tuple[int, int]]:
    """How far every stage of a run is, and what is done."""
    found = {}
    for path in (folder / "outputs").rglob("last.ckpt"):
        found[str(path.parent.relative_to(folder))] = position(path.parent)[:2]
    for path in (folder / "store").glob("*/*/*/manifest.json"):
        found[str(path.parent.relative_to(folder))] = (1, 0)
    return found


def lost(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> Iterator[str]:
    """What a further attempt undid; the checkpoints of a stage go when its result is in the store."""
    for name, how_far in before.items():
        if name.startswith("store") and name not in after:
            yield f"lost: {name}"
        elif name in after and after[name] < how_far:
            yield f"went back: {name} from {how_far} to {after[name]}"


def repeated(log: str) -> Iterator[str]:
    """Stages that were said to be done and were trained again."""
    for name in ("pretrain", "scratch"):
        said = [line for line in log.splitlines() if line.startswith(f"{name:<10} ") and "test accuracy" in line]
        if len(said) > 1 and "sweep" not in log and any("from the store" not in line for line in said[1:]):
            yield f"done again: {said}"


def results(folder: Path) -> dict[str, Any]:
    """All that a run or sweep leaves but what the clock and the machine's load decide: records, weights."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "outputs").rglob("record.json")):
        job = path.parent.name if path.parent.name.isdigit() else ""
        found[f"record {job}"] = lasting(load_record(path.parent), folder)
        for weights in sorted((path.parent / "weights").iterdir()):
            found[f"{weights.name} {job}"] = tensors(weights)
    for manifest in sorted((folder / "store").glob("*/*/*/manifest.json")):
        entry = manifest.parent
        damage = find_damage(entry)
        found[f"store {entry.relative_to(folder / 'store')}"] = {
            path.name: tensors(path) if path.suffix == ".safetensors" else ""
            for path in sorted(entry.iterdir())
            if path.name != "manifest.json"
        } | ({"damage": damage} if damage else {})
    return found


def tensors(path: Path) -> dict[str, Any]:
    """Type, shape and bytes of each tensor, and the metadata, which the format keeps in any order."""
    with safe_open(path, framework="numpy") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {name: [str(x.dtype), x.shape, x.tobytes()] for name, x in found.items()} | {"": file.metadata()}


def lasting(value: Any, folder: Path) -> Any:
    """Plain values without those of the moment."""
    if isinstance(value, dict):
        return {key: lasting(item, folder) for key, item in value.items() if not OF_THE_MOMENT.search(str(key))}
    if isinstance(value, list):
        return [lasting(item, folder) for item in value]
    return value.replace(str(folder), "") if isinstance(value, str) else value


def wrong_in(folder: Path, expected: dict[str, Any]) -> Iterator[str]:
    """What a run that is done left otherwise than the undisturbed one, a line each."""
    yield from different(expected, results(folder))
    yield from (f"left over: {path.relative_to(folder)}" for path in left_over(folder))


def different(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """What is not the same, a line each."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            if key not in found or key not in expected:
                yield f"{where}/{key}: only {'undisturbed' if key in expected else 'killed'}"
            else:
                yield from different(expected[key], found[key], f"{where}/{key}")
    elif expected != found:
        yield f"{where}: {str(expected)[:150]} -> {str(found)[:150]}"


def left_over(folder: Path) -> list[Path]:
    """Files that writers which died left half-written."""
    return [path for path in folder.rglob("*") if LEFT_OVER.search(path.name)]
