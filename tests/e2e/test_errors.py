"""What a user gets wrong is said in one or two lines, with an exit code, and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import SMALL, Graft

from graft.cli.main import main


def image_folder(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for name in ("ant", "bee"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    return root


def assert_refused(code: int, out: str, err: str, folder: Path) -> None:
    """It said so in one or two lines and made nothing."""
    assert code not in (0, -11)
    assert "Traceback" not in err + out
    lines = [line for line in err.splitlines() if line.strip()]
    assert 1 <= len(lines) <= 2, err
    assert not list(folder.glob("outputs/store/**/*.safetensors"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [("strategy=gradual_unfreez", "gradual_unfreeze"), ("target=image_folder target.path=/nowhere", "/nowhere")],
)
def test_a_process_ends_with_the_error(words: str, expected: str, graft: Graft, tmp_path: Path) -> None:
    done = graft(*SMALL, *words.split())
    assert_refused(done.returncode, done.stdout, done.stderr, tmp_path)
    assert expected in done.stderr


Refused = Callable[..., str]


@pytest.fixture
def refused(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Gives the error's text of what is run in this process, after checking that it is one."""

    def run(*arguments: str) -> str:
        code = main([*SMALL, *arguments])
        printed = capsys.readouterr()
        assert_refused(code, printed.out, printed.err, empty_folder)
        return printed.err

    return run


def test_misspelt_group(refused: Refused) -> None:
    assert "trainer" in refused("trainr=cpu")


def test_unknown_key(refused: Refused) -> None:
    assert "max_epochs" in refused("+trainer.max_epoch=3")


def test_broken_image(refused: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_folder(tmp_path / "images")
    (root / "train" / "ant" / "0.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    arguments = ("target=image_folder", f"target.path={root}", "target.val_fraction=0.2")
    assert "0.jpg" in refused(*arguments)
    assert main([*SMALL, *arguments, "target.skip_broken=true", "baselines=[]"]) == 0
    printed = capsys.readouterr()
    assert "0.jpg" in printed.err + printed.out


def test_empty_class(refused: Refused, tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images")
    (root / "train" / "wasp").mkdir()
    assert "wasp" in refused("target=image_folder", f"target.path={root}")


def test_mismatched_lengths(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    x, y = np.zeros((10, 8, 8), np.uint8), np.arange(9) % 2
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=np.arange(10) % 2)
    message = refused("target=arrays", f"target.path={path}")
    assert "10" in message
    assert "9" in message


def test_half_precision_on_a_cpu(refused: Refused) -> None:
    assert "bf16-mixed" in refused("trainer=cpu", "precision=16-mixed")


def test_debug_shows_the_traceback(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "target=image_folder", "target.path=/nowhere"]) != 0
    assert "Traceback" in capsys.readouterr().err
