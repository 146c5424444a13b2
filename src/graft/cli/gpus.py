"""One job for each GPU: which there are, and a task that takes one for as long as its process lives."""

import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import UserError
from graft.records.files import LockHeldError, file_lock

GPU_LAUNCHER = "hydra_plugins.graft_plugins.gpu_launcher.GpuLauncher"
VISIBLE = "CUDA_VISIBLE_DEVICES"
LIST_GPUS = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")
POLL_EVERY = 0.2  # seconds

log = logging.getLogger(__name__)


def find_devices(given: Sequence[int | str] | None) -> list[str]:
    """The GPUs to use, by the names that CUDA_VISIBLE_DEVICES takes: those given, those visible, or all.

    Raises:
        UserError: there is none, or one is named twice.
    """
    devices = [str(device) for device in given] if given is not None else visible_devices()
    if not devices:
        raise UserError("hydra/launcher=gpus: found no GPU; expected one in CUDA_VISIBLE_DEVICES or nvidia-smi")
    if len(set(devices)) < len(devices):
        raise UserError(f"hydra/launcher=gpus: a GPU is named twice in {', '.join(devices)}")
    return devices


def visible_devices() -> list[str]:
    """The GPUs in CUDA_VISIBLE_DEVICES where that is set, else all that nvidia-smi knows; torch is not asked, since
    a process that has seen all GPUs once cannot be kept to one.
    """
    if VISIBLE in os.environ:
        return [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(LIST_GPUS, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


@dataclass(frozen=True)
class OnOneGpu:
    """A task that sees one GPU alone; the process that runs it takes a free one for itself when it first does.

    Which are taken is known to all processes of the user on this machine, those of other sweeps too. A GPU is free
    again when the process that took it ends, however it does.
    """

    task: Callable[..., Any]
    devices: tuple[str, ...]

    def __call__(self, *arguments: Any) -> Any:
        """Run the task; waits where every GPU is taken."""
        if not _taken:
            _taken["device"] = take_one(self.devices)
        os.environ[VISIBLE] = _taken["device"]
        return self.task(*arguments)


_taken: dict[str, str] = {}  # the device of this process
_locks = ExitStack()  # held until the process ends


def take_one(devices: Sequence[str]) -> str:
    """The first free device, which is this process' own from now on; waits until there is one."""
    waiting = False
    while True:
        for device in devices:
            try:
                _locks.enter_context(file_lock(locks_folder() / f"{device}.lock", wait=False))
            except LockHeldError:
                continue
            return device
        if not waiting:
            log.info("all of the GPUs %s are taken; waiting for one", ", ".join(devices))
        waiting = True
        time.sleep(POLL_EVERY)


def locks_folder() -> Path:
    """Where the user's processes say which GPUs they have taken."""
    return Path(tempfile.gettempdir()) / f"graft-gpus-{os.getuid()}"
