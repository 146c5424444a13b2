"""Training input: small images in memory and a folder of photographs, measured by `data.py`."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from harness import NotMeasurable, Repetition, Row, share


def prepare(function: str) -> Callable[[bool, Path], Repetition]:
    """A repetition is one call of that function of `data.py`, which gives images/s by side."""

    def prepared(quick: bool, folder: Path) -> Repetition:
        try:
            measure = getattr(import_module("data"), function)
        except ModuleNotFoundError as error:
            if error.name != "data":
                raise
            raise NotMeasurable("scripts/benchmarks/data.py is not there") from error
        return lambda: measure(quick)

    return prepared


COMPILED = (
    "graft's crops are compiled where Numba is installed, as they are in a run once it has made 2**30 values of them"
)

ROWS = (
    Row(
        "cifar",
        "32x32 training input: crop with padding, flip, normalise",
        "images/s",
        prepare("cifar_input"),
        (share("graft", "torchvision", at_least=20.0),),
        note=COMPILED,
    ),
    Row(
        "folder",
        "image folder, 256 px JPEG to 224 training crops",
        "images/s",
        prepare("folder_input"),
        (
            share("graft, first epoch", "torchvision, decode_image", at_least=1.2),
            share("graft, later epochs", "torchvision, Pillow", at_least=8.0),
        ),
        note=f"{COMPILED}; not compiled, no gain for later epochs from pieces of several images, more threads than "
        "cores, normalising in a small array that stays in a core's cache, resampling in float32, by grid_sample or by "
        "bfloat16 matrix products, joining crops as they are converted, or multiplying as they are",
    ),
)
