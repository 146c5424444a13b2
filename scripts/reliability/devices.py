"""Trains with every strategy on several processes and on one with the same global batch, and compares the weights.

A sweep over the strategies in one process, and the same under torchrun in two and four, by DDP and by FSDP; each must
leave one folder with one record a job. Prints a line a strategy with the greatest difference of any weight, relative to
the largest of its tensor. Networks without batch statistics and dropout are trained, of which each process has its own;
strategies about norm layers get some that keep to what they were loaded with. `scripts/devices` runs it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

CONF = Path(__file__).resolve().parents[2] / "conf"
STRATEGIES = sorted(path.stem for path in (CONF / "strategy").glob("*.yaml"))
WAYS = ("ddp", "fsdp")
OF_NORMS = ("norm_only", "adabn")
# Without batch statistics so deep a network is steep, and carries the rounding of single precision far.
FIXED_NORMS = ("+strategy.norm_statistics=eval", "+pretrain.strategy.norm_statistics=eval", "precision=64-true")
GLOBAL_BATCH = 16
DATA = (
    "source.characters=digits", "source.num_samples=80", "source.num_test_samples=20", "source.size=16",
    "target=glyphs", "target.characters=digits", "target.num_samples=80", "target.num_test_samples=20",
    "target.size=16", "target.seed=1", "source.val_fraction=0.2", "target.val_fraction=0.2",
    "source.augmentation=null", "target.augmentation=null",
)  # fmt: skip
WORDS = (*DATA, "logger=none", "baselines=[]", "analysis.projector_images=0", "analysis.feature_images=0",
         "pretrain.max_epochs=2", "trainer.max_epochs=6", "sweep.name=devices")  # fmt: skip
TOLERANCE = 1e-3  # of the largest weight of a tensor: rounding, carried through all steps


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and compare; returns 0 where all weights are the same within rounding."""
    parser = argparse.ArgumentParser(prog="devices", description=__doc__)
    parser.add_argument("--only", choices=STRATEGIES, nargs="+", default=STRATEGIES, help="some of the strategies")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4], help="numbers of processes (%(default)s)")
    parser.add_argument(
        "--by", choices=WAYS, nargs="+", default=WAYS, help="how processes share the work (%(default)s)"
    )
    options = parser.parse_args(arguments)
    failed = False
    with tempfile.TemporaryDirectory(prefix="devices-") as folder:
        for backbone, strategies in by_backbone(options.only).items():
            here = Path(folder) / backbone
            expected = sweep(here / "1", backbone, strategies, 1, "cpu")
            for way, num in product(options.by, options.processes):
                found = sweep(here / f"{way}{num}", backbone, strategies, num, f"{way}_cpu")
                for name in strategies:
                    difference = greatest_difference(expected[name], found[name])
                    failed |= not difference <= TOLERANCE
                    print(f"{num} processes, {way}, {backbone:<8} {name:<22} {difference:.1e}", flush=True)
    return int(failed)


def by_backbone(strategies: Sequence[str]) -> dict[str, list[str]]:
    """The strategies by the network that they are tried on."""
    found = {"cnn": [name for name in strategies if name not in OF_NORMS]}
    found["resnet20"] = [name for name in strategies if name in OF_NORMS]
    return {backbone: names for backbone, names in found.items() if names}


def sweep(
    folder: Path, backbone: str, strategies: Sequence[str], num: int, trainer: str
) -> dict[str, dict[str, np.ndarray]]:
    """The weights that each strategy arrives at in so many processes, by its name."""
    folder.mkdir(parents=True)
    prefix = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num}"] if num > 1 else []
    words = ["-m", "graft", "-m", f"strategy={','.join(strategies)}", f"trainer={trainer}", "memory_format=contiguous"]
    batches = [f"{domain}.batch_size={GLOBAL_BATCH // num}" for domain in ("source", "target")]
    norms = list(FIXED_NORMS) if backbone != "cnn" else []
    places = [f"paths.outputs={folder}/outputs", f"paths.store={folder}/store", f"backbone={backbone}"]
    log = folder / "log"
    with log.open("w") as output:
        command = [sys.executable, *prefix, *words, *WORDS, *batches, *norms, *places]
        done = subprocess.run(command, stdout=output, stderr=output, cwd=folder, env=os.environ, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{log.read_text()[-3000:]}")
    records = {path: json.loads(path.read_text()) for path in (folder / "outputs").rglob("record.json")}
    assert sorted(record["strategy"] for record in records.values()) == sorted(strategies), list(records)
    return {
        record["strategy"]: load_file(path.parent / "weights" / "network.safetensors")
        for path, record in records.items()
    }


def greatest_difference(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    """Of any weight, relative to the largest of its tensor.

    >>> greatest_difference({"w": np.array([1.0, 2.0])}, {"w": np.array([1.0, 1.5])})
    0.25
    """
    assert expected.keys() == found.keys()
    return max(
        float(np.abs(weights - found[name]).max()) / max(float(np.abs(weights).max()), 1e-12)
        for name, weights in expected.items()
    )


if __name__ == "__main__":
    sys.exit(main())
