"""The program as a process."""

import os
import subprocess
from collections.abc import Callable

# Small enough to end in seconds: few glyphs, few epochs.
SMALL = ("source.num_samples=400", "source.num_test_samples=100", "pretrain.max_epochs=1", "trainer.max_epochs=2")

Graft = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONWARNINGS": "default"}
