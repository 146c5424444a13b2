"""Commands that answer at once: help and lists, and the answer to a shell that asks what may follow."""

import sys
from pathlib import Path

from harness import Repetition, Row, share
from running import GRAFT, HYDRA_ALONE, command

LIGHTNING = (sys.executable, "-c", "import pytorch_lightning")
TYPED = "COMP_LINE=graft strategy="  # what the shell's script says at every Tab
HYDRA, HELP, TAB, LS = "Hydra alone, --help", "graft --help", "graft, Tab after strategy=", "graft ls"
OVER_HYDRA = 0.4 / 0.35  # seconds that were asked for, where Hydra alone took the others


def prepare(quick: bool, folder: Path) -> Repetition:
    """Beside an empty Hydra application and the import that most would pay."""
    sides = {
        HYDRA: command(*HYDRA_ALONE, "--help"),
        HELP: command(*GRAFT, "--help"),
        TAB: command("env", TYPED, *GRAFT, "-sc", "query=bash"),
        LS: command(*GRAFT, "ls"),
    }
    importing = command(*LIGHTNING)()
    return lambda: {side: run() for side, run in sides.items()} | {"import pytorch_lightning, once": importing}


ROW = Row(
    "commands",
    "commands that answer at once",
    "s",
    prepare,
    tuple(share(side, HYDRA, at_most=OVER_HYDRA) for side in (HELP, TAB, LS)),
    "the goal is 0.4 s where Hydra alone takes 0.35",
)
