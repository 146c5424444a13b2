"""Makes an image folder of many tiny files and measures how long it takes to be read, the first time and again.

scripts/scale files --num 1000000 --classes 10000
"""

import argparse
import logging
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from PIL import Image

from graft.data.domain import Domain
from graft.data.preprocessing import Preprocessing
from graft.data.readers.image_folder import ImageFolder

SIDE = 8  # pixels of an image
SEEN = Preprocessing(size=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)


def main(arguments: list[str] | None = None) -> int:
    """Make the files, read them three times in processes of their own, and print the figures."""
    parser = argparse.ArgumentParser(
        prog="scale files", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--num", type=int, default=1_000_000, help="files")
    parser.add_argument("--classes", type=int, default=10_000, help="class folders")
    parser.add_argument("--keep", type=Path, help="use this folder, and leave it there")
    options = parser.parse_args(arguments)
    folder = options.keep or Path(tempfile.mkdtemp())
    try:
        data = folder / "data"
        if not data.exists():
            took = timed(lambda: make_files(data, options.num, options.classes))
            print(f"{options.num:,} files in {options.classes:,} classes made in {took}")
        for time in ("first", "second", "third"):
            print(f"{time} time:", flush=True)
            with ProcessPoolExecutor(
                1, get_context("spawn")
            ) as process:  # nothing is left in memory of the time before
                print(f"  {process.submit(load, data, folder).result()}")
    finally:
        if options.keep is None:
            shutil.rmtree(folder)
    return 0


def make_files(data: Path, num: int, num_classes: int) -> None:
    """So many PNG files of noise, no two alike, spread evenly over the classes."""
    rng = np.random.default_rng(0)
    for label in range(num_classes):
        here = data / f"class{label:06}"
        here.mkdir(parents=True)
        for number in range(num // num_classes):
            buffer = BytesIO()
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(buffer, "PNG", compress_level=0)
            (here / f"{number}.png").write_bytes(buffer.getvalue())


def load(data: Path, folder: Path) -> str:
    """Load a domain as a run does, with its cache of canvases and its index of hashes; says what that took."""
    logging.basicConfig(level=logging.INFO, format="  %(message)s", stream=sys.stderr)
    before = most_memory()
    reader = ImageFolder(data, index=folder / "index")
    domain = Domain("many", reader, cache=folder / "images", memory_limit_gib=0.01)
    took = timed(lambda: domain.load(SEEN))
    num = sum(domain.sizes.values())
    memory = (
        f"{most_memory() - before:,} bytes of memory more than before, {(most_memory() - before) / num:,.0f} a file"
    )
    return f"{took}, {memory}; {num:,} files, fingerprint {domain.fingerprint[:8]}"


def timed(call: Callable[[], None]) -> str:
    """How long a call takes, by the clock and by the processors."""
    clock, cpu = perf_counter(), process_time()
    call()
    return f"{perf_counter() - clock:.1f} s ({process_time() - cpu:.1f} s of CPU)"


def most_memory() -> int:
    """The most bytes of memory that this process has taken so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
