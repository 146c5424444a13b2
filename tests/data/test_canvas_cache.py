import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graft.data import decoding, images
from graft.data.augment import Augmentation
from graft.data.canvas_cache import CanvasCache, CanvasFile, Put, canvas_key
from graft.data.domain import Domain
from graft.data.images import ImageFiles, KeptImages, MappedImages
from graft.data.preprocessing import Preprocessing
from graft.data.readers.image_folder import ImageFolder
from graft.errors import UserError
from graft.records.files import file_lock

PREPROCESSING = Preprocessing(16, (0.5,) * 3, (0.5,) * 3, resize=20)
SHAPE = (5, 3, 16, 16)
SIZE = 5 * 3 * 16 * 16
ABOUT = 300  # more bytes than an entry's JSON takes


@pytest.fixture(autouse=True)
def as_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is shared in memory, so that what is read comes from the cache."""
    monkeypatch.setattr("graft.data.shared.MAX_DATASETS", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures of two classes."""
    rng = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded, one entry each time."""
    seen: list[Path] = []
    decode = decoding.decode

    def counted(path: Path, preprocessing: Preprocessing) -> Any:
        seen.append(path)
        return decode(path, preprocessing)

    for module in (decoding, images):
        monkeypatch.setattr(module, "decode", counted)
    return seen


def loaded(folder: Path, cache: Path | None, **settings: Any) -> Domain:
    defaults = {"memory_limit_gib": 0.0, "val_fraction": 0.0, "num_workers": 0, "batch_size": 4}
    domain = Domain("pictures", ImageFolder(folder), cache=cache, **defaults | settings)
    domain.load(PREPROCESSING)
    return domain


def images_of(domain: Domain) -> Any:
    return domain.datasets["train"].images


def entries(cache: Path) -> list[str]:
    return sorted(path.stem for path in cache.glob("*.json"))


def same_batches(one: Domain, other: Domain) -> bool:
    """Whether two domains give the same views for the same generator, bit for bit."""

    def views(domain: Domain) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        return [tensor for batch in domain.train_dataloader() for tensor in domain.view.train(batch, generator)[:3]]

    return all(torch.equal(a, b) for a, b in zip(views(one), views(other), strict=True))


def test_files_are_decoded_once_for_all_epochs_and_domains(folder: Path, tmp_path: Path, decoded: list[Path]) -> None:
    first = loaded(folder, tmp_path / "cache")
    assert isinstance(images_of(first), MappedImages)
    second = loaded(folder, tmp_path / "cache", batch_size=3)
    for _ in range(2):
        assert sum(len(batch.x) for batch in first.train_dataloader()) == first.sizes["train"]
    assert isinstance(images_of(second), MappedImages)
    assert len(decoded) == len(set(decoded)) == 12


def test_another_canvas_is_another_entry(folder: Path, tmp_path: Path) -> None:
    domain = loaded(folder, tmp_path / "cache")
    domain.load(Preprocessing(16, (0.1,) * 3, (0.2,) * 3, resize=20))  # the same canvas, otherwise normalised
    assert len(entries(tmp_path / "cache")) == 1
    domain.load(Preprocessing(16, (0.5,), (0.5,), resize=20))
    domain.load(Preprocessing(16, (0.5,) * 3, (0.5,) * 3, resize=20, interpolation="bicubic"))
    assert len(entries(tmp_path / "cache")) == 3


def test_other_content_is_another_entry(folder: Path, tmp_path: Path, decoded: list[Path]) -> None:
    loaded(folder, tmp_path / "cache")
    [first] = sorted(folder.rglob("*.png"))[:1]
    Image.fromarray(np.zeros((24, 30, 3), np.uint8)).save(first)
    domain = loaded(folder, tmp_path / "cache")
    assert len(decoded) == 24
    assert images_of(domain).canvases(torch.tensor([0])).max() == 0


def test_another_process_finds_what_this_one_made(folder: Path, tmp_path: Path) -> None:
    loaded(folder, tmp_path / "cache")
    program = f"""
from pathlib import Path
from graft.data import decoding
from graft.data.domain import Domain
from graft.data.preprocessing import Preprocessing
from graft.data.readers.image_folder import ImageFolder
decoding.decode = None
settings = dict(cache={str(tmp_path / "cache")!r}, memory_limit_gib=0.0, val_fraction=0.0)
domain = Domain("pictures", ImageFolder({str(folder)!r}), **settings)
domain.load({PREPROCESSING!r})
print(type(domain.datasets["train"].images).__name__, domain.fingerprint)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["MappedImages", loaded(folder, None).fingerprint]


def test_batches_are_the_same_with_and_without_a_cache_and_in_memory(folder: Path, tmp_path: Path) -> None:
    for augmentation in (Augmentation(resized_crop=(0.3, 1.0), flip=True), Augmentation(crop_padding=2, contrast=0.4)):
        streamed = loaded(folder, None, augmentation=augmentation)
        mapped = loaded(folder, tmp_path / "cache", augmentation=augmentation)
        kept = loaded(folder, None, augmentation=augmentation, memory_limit_gib=1.0)
        kept_from_cache = loaded(folder, tmp_path / "cache", augmentation=augmentation, memory_limit_gib=1.0)
        workers = loaded(folder, tmp_path / "cache", augmentation=augmentation, num_workers=1)
        kinds = [type(images_of(domain)) for domain in (streamed, mapped, kept, kept_from_cache, workers)]
        assert kinds == [ImageFiles, MappedImages, KeptImages, KeptImages, MappedImages]
        assert all(same_batches(streamed, other) for other in (mapped, kept, kept_from_cache, workers))


def test_images_in_memory_start_from_the_cache_too(folder: Path, tmp_path: Path, decoded: list[Path]) -> None:
    for _ in range(2):
        assert isinstance(images_of(loaded(folder, tmp_path / "cache", memory_limit_gib=1.0)), KeptImages)
    assert len(decoded) == 12


@pytest.mark.parametrize("settings", [{"cache": None}, {"cache_limit_gib": 0.0}, {"cache_limit_gib": 1e-7}])
def test_the_cache_can_be_switched_off_or_be_too_small(folder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    domain = loaded(folder, **{"cache": tmp_path / "cache"} | settings)
    assert isinstance(images_of(domain), ImageFiles)
    assert not (tmp_path / "cache").exists()


def test_the_fingerprint_does_not_depend_on_the_cache(folder: Path, tmp_path: Path) -> None:
    without = loaded(folder, None).fingerprint
    assert loaded(folder, tmp_path / "cache").fingerprint == without
    assert loaded(folder, tmp_path / "cache", cache_limit_gib=1.0).fingerprint == without


def test_broken_files_are_named_again_without_decoding_the_others(
    folder: Path, tmp_path: Path, decoded: list[Path]
) -> None:
    broken = folder / "a" / "4.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(UserError, match=r"a/4\.png"):
        loaded(folder, tmp_path / "cache")
    del decoded[:]
    with pytest.raises(UserError, match=r"a/4\.png"):
        loaded(folder, tmp_path / "cache")
    assert decoded == [broken]
    skipping = loaded(folder, tmp_path / "cache", skip_broken=True)
    assert sum(skipping.sizes.values()) == 11
    assert same_batches(skipping, loaded(folder, None, skip_broken=True))


def test_a_failure_that_has_passed_is_not_remembered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlucky, decode = folder / "a" / "4.png", decoding.decode

    def fail(path: Path, preprocessing: Preprocessing) -> Any:
        return decoding.Unreadable(path, "too many open files") if path == unlucky else decode(path, preprocessing)

    with monkeypatch.context() as patch:
        for module in (decoding, images):
            patch.setattr(module, "decode", fail)
        assert sum(loaded(folder, tmp_path / "cache", skip_broken=True).sizes.values()) == 11
    assert sum(loaded(folder, tmp_path / "cache", skip_broken=True).sizes.values()) == 12
    assert isinstance(images_of(loaded(folder, tmp_path / "cache")), MappedImages)


def test_a_folder_that_cannot_be_written_is_a_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    with caplog.at_level(logging.WARNING):
        domain = loaded(folder, tmp_path / "cache")
    assert isinstance(images_of(domain), ImageFiles)
    assert "not cached" in caplog.text


def test_a_mapped_domain_can_be_sent_to_another_process(folder: Path, tmp_path: Path) -> None:
    domain = loaded(folder, tmp_path / "cache")
    sent = pickle.dumps(domain)
    assert len(sent) < 20_000
    assert same_batches(pickle.loads(sent), domain)


def fill_with(value: int, calls: list[int] | None = None) -> Callable[[Put], list[int]]:
    def fill(put: Put) -> list[int]:
        if calls is not None:
            calls.append(value)
        for position in range(SHAPE[0]):
            put(position, np.full(SHAPE[1:], value, np.uint8))
        return []

    return fill


def made(cache: CanvasCache, key: str, value: int = 7, calls: list[int] | None = None) -> CanvasFile:
    file = cache.get_or_fill(key, SHAPE, fill_with(value, calls))
    assert file is not None
    return file


def key_of(number: int) -> str:
    return canvas_key(str(number), PREPROCESSING)


def truncate(path: Path) -> None:
    os.truncate(path, SIZE // 2)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(data)


def write_nonsense(path: Path) -> None:
    path.write_text("{")


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".u8", truncate),
        (".u8", flip_a_bit),
        (".u8", Path.unlink),
        (".json", write_nonsense),
        (".json", lambda path: path.write_text("[]")),
        (".json", Path.unlink),
    ],
)
def test_what_is_damaged_is_made_again(tmp_path: Path, suffix: str, damage: Callable[[Path], None]) -> None:
    cache, calls = CanvasCache(tmp_path, 1e6), []
    made(cache, key_of(0), calls=calls)
    damage(tmp_path / f"{key_of(0)}{suffix}")
    for _ in range(2):
        assert made(cache, key_of(0), calls=calls).canvases.eq(7).all()
    assert len(calls) == 2


def test_nothing_is_left_of_a_fill_that_fails(tmp_path: Path) -> None:
    def fill(put: Put) -> list[int]:
        put(0, np.zeros(SHAPE[1:], np.uint8))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CanvasCache(tmp_path, 1e6).get_or_fill(key_of(0), SHAPE, fill)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def age(cache: Path, number: int, seconds: int) -> None:
    for suffix in (".u8", ".json"):
        os.utime(cache / f"{key_of(number)}{suffix}", (seconds, seconds))


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    cache = CanvasCache(tmp_path, 3 * SIZE + 3 * ABOUT)
    for number in range(3):
        made(cache, key_of(number), number)
        age(tmp_path, number, 100 + number)
    made(cache, key_of(0))  # used again
    held = made(cache, key_of(1)).canvases
    age(tmp_path, 1, 50)
    made(cache, key_of(3), 3)
    assert entries(tmp_path) == sorted(map(key_of, (0, 2, 3)))
    assert held.eq(1).all(), "a run that has mapped an entry keeps it"
    used = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert used <= cache.limit


def test_what_a_run_that_died_left_behind_goes_too(tmp_path: Path) -> None:
    left = tmp_path / f".{key_of(9)}.u8.0123"
    left.write_bytes(bytes(2 * SIZE))
    cache = CanvasCache(tmp_path, 2 * SIZE + ABOUT)
    made(cache, key_of(0))
    assert not left.exists()


def test_an_entry_that_another_run_is_making_stays_and_its_room_is_taken(tmp_path: Path) -> None:
    cache = CanvasCache(tmp_path, 2 * SIZE)
    with file_lock(tmp_path / f"{key_of(9)}.lock"):
        partial = tmp_path / f".{key_of(9)}.u8.0123"
        partial.write_bytes(bytes(SIZE + 1))
        assert cache.get_or_fill(key_of(0), SHAPE, fill_with(0)) is None
        assert partial.exists()


def test_builders_at_once_do_the_work_once(tmp_path: Path) -> None:
    calls: list[int] = []
    together = threading.Barrier(4)

    def build(_: int) -> CanvasFile:
        together.wait()
        return made(CanvasCache(tmp_path, 1e6), key_of(0), calls=calls)

    with ThreadPoolExecutor(4) as pool:
        assert all(file.canvases.eq(7).all() for file in pool.map(build, range(4)))
    assert calls == [7]
