"""What a user gets wrong is said in one or two lines, with an exit code, and leaves nothing behind."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import SMALL, Graft


def image_folder(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for name in ("ant", "bee"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    return root


def refused(graft: Graft, folder: Path, *arguments: str) -> str:
    """The error's text, after checking that it is one."""
    done = graft(*SMALL, *arguments)
    assert done.returncode not in (0, -11)
    assert "Traceback" not in done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert 1 <= len(lines) <= 2, done.stderr
    assert not list(folder.glob("outputs/store/**/*.safetensors"))
    return done.stderr


def test_misspelt_option(graft: Graft, tmp_path: Path) -> None:
    assert "gradual_unfreeze" in refused(graft, tmp_path, "strategy=gradual_unfreez")


def test_misspelt_group(graft: Graft, tmp_path: Path) -> None:
    assert "trainer" in refused(graft, tmp_path, "trainr=cpu")


def test_unknown_key(graft: Graft, tmp_path: Path) -> None:
    assert "max_epochs" in refused(graft, tmp_path, "+trainer.max_epoch=3")


def test_missing_folder(graft: Graft, tmp_path: Path) -> None:
    assert "/nowhere" in refused(graft, tmp_path, "target=image_folder", "target.path=/nowhere")


def test_broken_image(graft: Graft, tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images")
    (root / "train" / "ant" / "0.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    arguments = ("target=image_folder", f"target.path={root}", "target.val_fraction=0.2")
    assert "0.jpg" in refused(graft, tmp_path, *arguments)
    done = graft(*SMALL, *arguments, "target.skip_broken=true", "baselines=[]")
    assert done.returncode == 0, done.stderr
    assert "0.jpg" in done.stderr + done.stdout


def test_empty_class(graft: Graft, tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images")
    (root / "train" / "wasp").mkdir()
    assert "wasp" in refused(graft, tmp_path, "target=image_folder", f"target.path={root}")


def test_mismatched_lengths(graft: Graft, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    x, y = np.zeros((10, 8, 8), np.uint8), np.arange(9) % 2
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=np.arange(10) % 2)
    message = refused(graft, tmp_path, "target=arrays", f"target.path={path}")
    assert "10" in message
    assert "9" in message


def test_half_precision_on_a_cpu(graft: Graft, tmp_path: Path) -> None:
    assert "bf16-mixed" in refused(graft, tmp_path, "trainer=cpu", "precision=16-mixed")


def test_debug_shows_the_traceback(graft: Graft, tmp_path: Path) -> None:
    done = graft("--debug", "target=image_folder", "target.path=/nowhere")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("ls",), ("ls", "strategy"), ("show", "strategy/lp_ft")])
def test_answers_without_torch(arguments: tuple[str, ...], graft: Graft) -> None:
    done = graft(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
