from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from graft.data import batchwise
from graft.data.decoding import decode
from graft.data.images import ImageFiles, KeptImages, ResizedImages, open_images, resize, resize_all
from graft.data.preprocessing import Preprocessing
from graft.data.readers.base import RawSplit, Unreadable
from graft.errors import UserError


def colour(canvas: int, interpolation: str = "bilinear") -> Preprocessing:
    return Preprocessing(canvas, (0.5,) * 3, (0.5,) * 3, interpolation=interpolation)  # type: ignore[arg-type]


def grey(canvas: int) -> Preprocessing:
    return Preprocessing(canvas, (0.5,), (0.5,))


def picture(height: int = 47, width: int = 61, seed: int = 0) -> np.ndarray:
    """Smooth in places, noisy in others."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize((width, height))
    noisy = np.asarray(coarse).astype(int) + rng.integers(-30, 31, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def saved(path: Path, pixels: np.ndarray, **settings: object) -> Path:
    Image.fromarray(pixels).save(path, **settings)
    return path


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(47, 61), (61, 47), (20, 20), (33, 90)])
def test_a_file_comes_as_torchvision_would_resize_and_crop_it(
    tmp_path: Path, shape: tuple[int, int], interpolation: str
) -> None:
    path = saved(tmp_path / "a.png", picture(*shape))
    reference = v2.Compose([v2.Resize(32, v2.InterpolationMode(interpolation)), v2.CenterCrop(32), v2.PILToTensor()])
    found = decode(path, colour(32, interpolation))
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, reference(Image.open(path)).numpy())


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"quality": 30, "subsampling": 2}, {"keep_rgb": True}])
@pytest.mark.parametrize("shape", [(47, 61), (32, 32), (32, 50)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_comes_as_pillow_decodes_it(
    tmp_path: Path, shape: tuple[int, int], mode: str, settings: dict[str, Any]
) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(*shape)).convert(mode).save(path, **settings)
    reference = v2.Compose([v2.Resize(32), v2.CenterCrop(32), v2.PILToTensor()])
    for how in (colour(32), grey(32)):
        found = decode(path, how)
        assert isinstance(found, np.ndarray)
        expected = Image.open(path).convert("RGB" if how.channels == 3 else "L")
        assert np.array_equal(found, reference(expected).numpy())


@pytest.mark.parametrize("shape", [(47, 61), (20, 20), (64, 64), (8, 8)])
def test_arrays_come_almost_as_files_do(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = picture(*shape)
    from_file = decode(saved(tmp_path / "a.png", pixels), colour(32))
    [from_array] = resize(pixels[None], colour(32)).numpy()
    assert np.abs(from_array.astype(int) - from_file.astype(int)).max() <= 1  # rounding


def test_an_array_of_the_right_size_is_untouched() -> None:
    pixels = picture(32, 32)
    assert np.array_equal(resize(pixels[None], colour(32))[0].permute(1, 2, 0).numpy(), pixels)


def test_colour_becomes_grey_as_pillow_does_it(tmp_path: Path) -> None:
    pixels = picture(32, 32)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(resize(pixels[None], grey(32))[0, 0].numpy(), expected)
    found = decode(saved(tmp_path / "a.png", pixels), grey(32))
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found[0], expected)


@pytest.mark.parametrize("shape", [(5, 32, 32), (5, 32, 32, 1)])
def test_grey_becomes_colour_without_its_memory(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    canvases = resize_all(pixels, colour(32))
    assert canvases.shape == (5, 3, 32, 32)
    assert all(np.array_equal(canvases[:, c].numpy(), pixels.reshape(5, 32, 32)) for c in range(3))
    assert canvases.untyped_storage().nbytes() == pixels.nbytes


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_kind_of_picture_becomes_three_channels(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    if mode == "I;16":
        Image.fromarray(np.full((40, 40), 200, np.uint16)).save(path)
    else:
        Image.fromarray(picture(40, 40)).convert(mode).save(path)
    found = decode(path, colour(32))
    assert isinstance(found, np.ndarray)
    assert found.shape == (3, 32, 32)


def test_a_palette_with_transparency_is_no_warning(tmp_path: Path) -> None:
    image = Image.fromarray(picture(40, 40)).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert isinstance(decode(tmp_path / "a.png", colour(32)), np.ndarray)


def test_pictures_are_turned_as_their_camera_says(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 3  # held upside down
    found = decode(saved(tmp_path / "a.jpg", pixels, exif=exif), colour(32))
    assert isinstance(found, np.ndarray)
    assert found[:, :10].mean() < 20
    assert found[:, -10:].mean() > 235


def broken_files(folder: Path) -> list[Path]:
    whole = saved(folder / "whole.jpg", picture())
    cut = folder / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:-400])
    text, empty = folder / "text.jpg", folder / "empty.png"
    text.write_text("no picture")
    empty.touch()
    damaged = saved(folder / "damaged.png", picture())
    damaged.write_bytes(damaged.read_bytes()[:300] + b"\0" * 200 + damaged.read_bytes()[500:])
    return [cut, text, empty, damaged]


@pytest.mark.parametrize("keep", [True, False])
def test_all_files_that_cannot_be_decoded_are_found(tmp_path: Path, keep: bool) -> None:
    bad = broken_files(tmp_path)
    good = [saved(tmp_path / f"{i}.png", picture(seed=i)) for i in range(3)]
    paths = [good[0], bad[0], good[1], *bad[1:], good[2]]
    images, broken = open_images(RawSplit(paths, np.arange(len(paths))), colour(16), keep)
    assert [found.path for found in broken] == bad
    assert all(found.reason for found in broken)
    assert len(images) == 3
    for position, path in enumerate(good):
        expected = decode(path, colour(16))
        assert isinstance(expected, np.ndarray)
        assert np.array_equal(images.canvases(torch.tensor([position]))[0].numpy(), expected)


def test_kept_and_streamed_images_are_the_same(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{i}.png", picture(seed=i)) for i in range(5)]
    positions = torch.tensor([4, 0, 2])
    from_files = RawSplit(paths, np.arange(5))
    from_arrays = RawSplit(np.stack([picture(seed=i) for i in range(5)]), np.arange(5))
    from_grey = RawSplit(np.stack([picture(seed=i)[..., 0] for i in range(5)]), np.arange(5))
    for split, kind in ((from_files, ImageFiles), (from_arrays, ResizedImages), (from_grey, ResizedImages)):
        kept, _ = open_images(split, colour(16), keep=True)
        streamed, _ = open_images(split, colour(16), keep=False)
        assert isinstance(kept, KeptImages)
        assert isinstance(streamed, kind)
        assert torch.equal(kept.canvases(positions), streamed.canvases(positions))
        assert kept.canvases(positions).shape == (3, 3, 16, 16)


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", picture())
    images, _ = open_images(RawSplit([path], np.zeros(1, np.int64)), colour(16), keep=False)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.png"):
        images.canvases(torch.tensor([0]))


def test_a_broken_file_says_why(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("no picture")
    assert decode(path, colour(16)) == Unreadable(path, "not an image")


@pytest.mark.parametrize("worth_threads", [1, 2**22])
def test_images_are_gathered_in_the_order_they_have_in_memory(
    worth_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batchwise, "WORTH_THREADS", worth_threads)
    x = torch.randint(256, (20, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    positions = torch.tensor([3, 19, 0, 3])
    for images in (x, x[:, :1].expand(-1, 3, -1, -1), x.contiguous(memory_format=torch.channels_last)):
        gathered = batchwise.gather(images, positions)
        assert torch.equal(gathered, images[positions])
        assert (gathered.stride(1) == 1) == (images.stride(1) == 1)
