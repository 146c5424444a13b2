"""Runs a sweep of many tiny jobs in one process and prints how much memory it holds after some of them.

scripts/scale jobs --num 200
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from graft.cli.main import main as graft

WORDS = (
    "-m", "source=none", "strategy=scratch", "baselines=[]", "backbone=lenet", "target=glyphs",
    "target.characters=digits", "target.num_samples=160", "target.num_test_samples=40", "target.size=16",
    "trainer=cpu", "trainer.max_epochs=1", "logger=none", "analysis.projector_images=0",
)  # fmt: skip
POLL = 0.02  # seconds


def main(arguments: list[str] | None = None) -> int:
    """Run the jobs; returns the sweep's exit code, or 1 where memory grew by more than a tenth after the first ones."""
    parser = argparse.ArgumentParser(
        prog="scale jobs", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--num", type=int, default=200, help="jobs")
    options = parser.parse_args(arguments)
    points = sorted({max(1, options.num // 10), options.num // 2, options.num})
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        places = [f"paths.outputs={folder}/outputs", f"paths.store={folder}/store", "sweep.name=many"]
        watch = Watch(Path(folder) / "outputs" / "sweeps" / "many", points[:-1])
        began = time.perf_counter()
        watch.start()
        with redirect_stdout(StringIO()):
            code = graft([*WORDS, f"seed=range(0,{options.num})", *places])
        watch.held[options.num] = resident_bytes()
        watch.ended.set()
        print(f"{options.num} jobs in one process: {time.perf_counter() - began:.0f} s, exit code {code}")
    for num, held in sorted(watch.held.items()):
        print(f"  after job {num:>4}: {held / 2**20:,.1f} MiB resident")
    first, last = (watch.held[num] for num in (points[0], points[-1]))
    print(f"  from the first to the last: {(last - first) / (points[-1] - points[0]) / 2**10:,.1f} KiB a job")
    return code or int(last > 1.1 * first)


class Watch(threading.Thread):
    """Notes this process' memory as soon as so many jobs have begun that some number of them must be over."""

    def __init__(self, folder: Path, points: list[int]) -> None:
        super().__init__(daemon=True)
        self.folder, self.points = folder, list(points)
        self.held: dict[int, int] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        """Look again and again."""
        while self.points and not self.ended.wait(POLL):
            begun = sum(path.is_dir() for path in self.folder.iterdir()) if self.folder.is_dir() else 0
            if begun > self.points[0]:
                self.held[self.points.pop(0)] = resident_bytes()


def resident_bytes() -> int:
    """What this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
