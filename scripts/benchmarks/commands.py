"""Commands that answer at once: help and lists."""

import sys
from pathlib import Path

from harness import Repetition, Row, seconds_at_most
from running import GRAFT, command

HYDRA = (sys.executable, str(Path(__file__).with_name("hydra_alone.py")), "--help")
LIGHTNING = (sys.executable, "-c", "import pytorch_lightning")


def prepare_help(quick: bool, folder: Path) -> Repetition:
    """Beside an empty Hydra application and the import that most would pay."""
    sides = {"Hydra alone, --help": command(*HYDRA), "graft --help": command(*GRAFT, "--help")}
    importing = command(*LIGHTNING)()
    return lambda: {side: run() for side, run in sides.items()} | {"import pytorch_lightning, once": importing}


def prepare_completion(quick: bool, folder: Path) -> Repetition:
    """The answer to a shell that asks what may follow `graft strategy=`, as its script does at every Tab."""
    typed = "COMP_LINE=graft strategy="
    sides = {
        "Hydra alone, --help": command(*HYDRA),
        "graft, Tab": command("env", typed, *GRAFT, "-sc", "query=bash"),
    }
    return lambda: {side: run() for side, run in sides.items()}


def prepare_ls(quick: bool, folder: Path) -> Repetition:
    """Beside an empty Hydra application."""
    sides = {"Hydra alone, --help": command(*HYDRA), "graft ls": command(*GRAFT, "ls")}
    return lambda: {side: run() for side, run in sides.items()}


ROWS = (
    Row("help", "graft --help", "s", prepare_help, (seconds_at_most("graft --help", 0.4),)),
    Row("completion", "Tab after graft strategy=", "s", prepare_completion, (seconds_at_most("graft, Tab", 0.4),)),
    Row("ls", "graft ls", "s", prepare_ls, (seconds_at_most("graft ls", 0.4),)),
)
