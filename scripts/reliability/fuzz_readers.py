"""Damaged files before everything that reads files: they are refused in a line or read, and nothing else.

Each reader gets whole files of its formats, damaged in many ways. Anything but a result or the refusal that the reader
promises fails, as do warnings that are left to the user, and more memory than `MEMORY`. What keeps checksums must
moreover notice all damage.
"""

import csv
import json
import pickle
import random
import resource
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import torch
from mutations import mutate
from PIL import Image
from scipy.io import wavfile
from torch import nn

from graft.callbacks.checkpoints import read_checkpoint
from graft.data.canvas_cache import CanvasCache
from graft.data.decoding import Unreadable, check, decode
from graft.data.preprocessing import Preprocessing
from graft.data.readers.arrays import Arrays
from graft.data.readers.text_table import TextTable
from graft.data.waveforms import Sampling, decode_sound
from graft.errors import UserError
from graft.models.backbones.lenet import LeNet
from graft.models.weights import read_weights, save_weights
from graft.records.record import load_record, start_record, write_record
from graft.records.store import Store

MEMORY = 2 * 2**30  # bytes of address space that reading damaged files may add
VIEW = Preprocessing(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
SAMPLING = Sampling(rate=8000, seconds=0.05, trim_db=40)
KEY = "0123456789abcdef"
NOTICED, READ = "refused", "read"


@dataclass(frozen=True)
class Subject:
    """A reader, whole files for it, and what it makes of one that is damaged."""

    name: str
    files: tuple[Path, ...]
    attempt: Callable[[Path], str]  # READ or NOTICED
    notices_all: bool = False


def fuzz_readers(num: int, folder: Path, first_seed: int = 0) -> dict[str, Counter[str]]:
    """Try so many damaged files, shared out among the readers; returns by reader what became of how many.

    Files at which a reader ended otherwise are left in `folder` under the names that the outcomes say.
    """
    found = subjects(folder)
    whole = [path.read_bytes() for subject in found for path in subject.files]
    outcomes: dict[str, Counter[str]] = {}
    with bounded_memory():
        for subject in found:
            outcomes[subject.name] = Counter()
            for number in range(-(-num // len(found))):
                rng = random.Random(f"{first_seed} {subject.name} {number}")
                original = rng.choice(subject.files)
                damaged = folder / f"damaged{original.suffix}"
                damaged.write_bytes(mutate(original.read_bytes(), rng.choice(whole), rng))
                result = outcome(subject, damaged)
                if result not in (NOTICED, READ):
                    kept = damaged.rename(folder / f"{subject.name}-{first_seed}-{number}{original.suffix}")
                    result = f"{result}: {kept}"
                outcomes[subject.name][result] += 1
    return outcomes


def outcome(subject: Subject, damaged: Path) -> str:
    """What becomes of one file: `NOTICED`, `READ`, or what should not have happened."""
    try:
        with warnings.catch_warnings(record=True) as warned:
            result = subject.attempt(damaged)
    except UserError as error:
        return NOTICED if str(error).strip() else "an empty error"
    except Exception as error:
        return f"{type(error).__name__} ({error})"
    if warned:
        return f"the warning {warned[0].message}"
    return "damage that was not noticed" if result == READ and subject.notices_all else result


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Reading may not claim more than `MEMORY` beside what the process has already."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def subjects(folder: Path) -> list[Subject]:
    """Every reader, with files that it reads when they are whole."""
    rng = np.random.default_rng(0)
    subjects = [
        Subject("arrays", tuple(array_files(folder, rng)), lambda path: done(Arrays(str(path)).read())),
        Subject("images", tuple(image_files(folder, rng)), decoded),
        Subject("sounds", tuple(sound_files(folder, rng)), heard),
        Subject("tables of texts", tuple(text_files(folder)), lambda path: done(TextTable(str(path)).read())),
        same("weights", (own_weights(folder),), weights_hash),
        Subject("weights of others", (foreign_weights(folder),), lambda path: done(weights_hash(path))),
        same("checkpoints", (checkpoint_file(folder),), lambda path: str(read_checkpoint(path))),
        same("records", (record_file(folder),), load_record),
        store_entry(folder),
        cached_canvases(folder),
    ]
    for subject in subjects:
        if not subject.notices_all:
            assert all(subject.attempt(path) == READ for path in subject.files), subject.name
    return subjects


def done(_: object) -> str:
    """It was read."""
    return READ


def same(name: str, files: tuple[Path, ...], read: Callable[[Path], object]) -> Subject:
    """A reader that must find what was written or nothing: damage of what has no meaning may pass."""
    written = {path.suffix: read(path) for path in files}
    whole = {path.read_bytes() for path in files}

    def attempt(path: Path) -> str:
        found = read(path)
        return READ if found == written[path.suffix] or path.read_bytes() in whole else "values that were not written"

    return Subject(name, files, attempt)


def decoded(path: Path) -> str:
    """An image through the decoder and through the quick check of a folder that is not kept."""
    checked = check(path)
    assert checked is None or isinstance(checked, Unreadable)
    return NOTICED if isinstance(decode(path, VIEW), Unreadable) else READ


def heard(path: Path) -> str:
    """A sound through the decoder."""
    return NOTICED if isinstance(decode_sound(path, SAMPLING), Unreadable) else READ


def array_files(folder: Path, rng: np.random.Generator) -> Iterator[Path]:
    """Compressed and plain."""
    arrays = {
        "x_train": rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8),
        "y_train": np.arange(6) % 2,
        "class_names": np.array(["ant", "bee"]),
    }
    for name, save in (("plain", np.savez), ("compressed", np.savez_compressed)):
        path = folder / f"{name}.npz"
        save(path, **arrays)  # type: ignore[arg-type]
        yield path


def image_files(folder: Path, rng: np.random.Generator) -> Iterator[Path]:
    """One of each format that Pillow writes and people have, in colour, grey and with a palette."""
    image = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    for mode in ("RGB", "L", "P"):
        for suffix in ("jpg", "png", "gif", "bmp", "tiff", "webp", "ppm"):
            if (mode, suffix) not in (("P", "jpg"), ("P", "ppm"), ("P", "webp"), ("L", "webp")):
                path = folder / f"{mode}.{suffix}"
                image.convert(mode).save(path)
                yield path


def sound_files(folder: Path, rng: np.random.Generator) -> Iterator[Path]:
    """WAV files of every kind of sample, at the rate that is kept and at another; FLAC and Ogg where they are read."""
    samples = rng.integers(-(2**15), 2**15, (400, 2)).astype(np.int16)
    for dtype in (np.uint8, np.int16, np.int32, np.float32):
        path = folder / f"{np.dtype(dtype).name}.wav"
        scale = 1 / 2**15 if dtype is np.float32 else 2.0 ** (8 * np.dtype(dtype).itemsize - 16)
        values = samples.astype(np.float64) * scale + (128 if dtype is np.uint8 else 0)
        wavfile.write(path, 8000 if dtype is np.int16 else 11025, values.astype(dtype))
        yield path
    if find_spec("soundfile") is not None:
        import soundfile

        for suffix in ("flac", "ogg"):
            path = folder / f"sound.{suffix}"
            soundfile.write(path, samples, 8000)
            yield path


def text_files(folder: Path) -> Iterator[Path]:
    """The same rows as CSV, TSV and JSON lines, and as parquet where that is read."""
    rows = [{"text": f"a {word}, it said\nand ended", "label": word} for word in ("good", "bad") * 6]
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        path = folder / f"texts.{suffix}"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
        yield path
    path = folder / "texts.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    yield path
    if find_spec("pyarrow") is not None:
        import pyarrow
        from pyarrow import parquet

        path = folder / "texts.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        yield path


def own_weights(folder: Path) -> Path:
    """As a run leaves them."""
    path = folder / "weights.safetensors"
    save_weights(nn.Linear(3, 2), path, {"preprocessing": json.dumps(VIEW.as_dict())})
    return path


def foreign_weights(folder: Path) -> Path:
    """A file of PyTorch; another such file in its place is as good."""
    path = folder / "weights.pth"
    torch.save({"state_dict": nn.Linear(3, 2).state_dict()}, path)
    return path


def weights_hash(path: Path) -> str:
    """That of the values in the file."""
    return read_weights(str(path), LeNet()).sha256


def checkpoint_file(folder: Path) -> Path:
    """Tensors and plain values."""
    path = folder / "last.ckpt"
    torch.save({"epoch": 3, "state_dict": {"w": torch.ones(4)}, "stage": {"history": [{"epoch": 1}]}}, path)
    return path


def record_file(folder: Path) -> Path:
    """The record of a run that has begun."""
    write_record(folder, start_record("fuzz", 0, {"seed": 0, "paths": {}}))
    return folder / "record.json"


def store_entry(folder: Path) -> Subject:
    """An entry of the store one of whose files is damaged: it is set aside."""
    entry = Store(folder / "store").get_or_make("kept", KEY, lambda made: fill_entry(made))
    whole = folder / "whole_entry"
    copytree(entry, whole)

    def attempt(damaged: Path) -> str:
        rmtree(folder / "store")
        copytree(whole, entry)
        for name in ("values.bin", "manifest.json"):
            if damaged.suffix == Path(name).suffix:
                (entry / name).write_bytes(damaged.read_bytes())
        found = Store(folder / "store").entry("kept", KEY)
        return NOTICED if found is None else READ

    return Subject("store", (whole / "values.bin",), attempt, notices_all=True)


def fill_entry(made: Path) -> None:
    (made / "values.bin").write_bytes(pickle.dumps(list(range(200))))


def cached_canvases(folder: Path) -> Subject:
    """Decoded images in the cache, damaged: they are made again, equal to those before."""
    root = folder / "canvases"
    root.mkdir()
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    made: list[int] = []

    def fill(put: Callable[[int, np.ndarray], None]) -> list[int]:
        made.append(1)
        for position, image in enumerate(images):
            put(position, image)
        return []

    def opened() -> np.ndarray:
        file = CanvasCache(root, limit=2**20).get_or_fill(KEY, images.shape, fill)
        assert file is not None
        return file.canvases.numpy()

    def attempt(damaged: Path) -> str:
        (root / f"{KEY}.u8").write_bytes(damaged.read_bytes())
        before = len(made)
        assert np.array_equal(opened(), images)
        return NOTICED if len(made) > before else READ

    assert np.array_equal(opened(), images)
    original = folder / "canvases.u8"
    original.write_bytes((root / f"{KEY}.u8").read_bytes())
    return Subject("canvas cache", (original,), attempt, notices_all=True)
