"""Training input: small images in memory and a folder of photographs, measured by `data.py`."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from harness import Figures, Goal, NotMeasurable, Repetition, Row


def prepare(function: str) -> Callable[[bool, Path], Repetition]:
    """A repetition is one call of that function of `data.py`, which gives images/s by side."""

    def prepared(quick: bool, folder: Path) -> Repetition:
        try:
            measure = getattr(import_module("data"), function)
        except ModuleNotFoundError as error:
            raise NotMeasurable("scripts/benchmarks/data.py is not there") from error
        return lambda: measure(quick)

    return prepared


def ours(figures: Figures) -> list[float]:
    """graft's sides in order."""
    return [rate for side, rate in figures.items() if side.startswith("graft")]


def peers(figures: Mapping[str, float]) -> list[float]:
    """The other sides in order."""
    return [rate for side, rate in figures.items() if not side.startswith("graft")]


ROWS = (
    Row(
        "cifar",
        "32x32 training input: crop with padding, flip, normalise",
        "images/s",
        prepare("cifar_input"),
        (Goal("at least 20x the first peer", lambda f: ours(f)[0] / peers(f)[0], at_least=20.0),),
    ),
    Row(
        "folder",
        "image folder, 256 px JPEG to 224 training crops",
        "images/s",
        prepare("folder_input"),
        (
            Goal("first epoch: at least 1.2x the second peer", lambda f: ours(f)[0] / peers(f)[1], at_least=1.2),
            Goal("later epochs: at least 8x the first peer", lambda f: ours(f)[-1] / peers(f)[0], at_least=8.0),
        ),
    ),
)
