"""A Slurm of two nodes on this machine."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import environment

SCRIPT = str(Path(__file__).resolve().parents[2] / "scripts" / "slurm")
PORT = "27817"  # beside a Slurm that somebody tries out


@dataclass(frozen=True)
class Slurm:
    folder: Path
    environment: dict[str, str]

    def __call__(self, *command: str) -> str:
        """What a command of Slurm's prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def kill_node(self, name: str) -> None:
        """End a node as a power cut does: its daemon and all that runs on it, without a word."""
        os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGKILL)
        for process in processes_with(f"SLURMD_NODENAME={name}", f"SLURM_CONF={self.folder}/slurm.conf"):
            os.kill(process, signal.SIGKILL)
        self("scontrol", "update", f"nodename={name}", "state=down", "reason=killed")


def processes_with(*variables: str) -> list[int]:
    """The processes that have all of these variables in their environments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environ = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # has ended
            continue
        if set(variables) <= set(environ):
            found.append(int(path.parent.name))
    return found


@contextmanager
def running_slurm(folder: Path) -> Iterator[Slurm]:
    own = {"GRAFT_SLURM": str(folder), "GRAFT_SLURM_PORT": PORT, "SLURM_CONF": str(folder / "slurm.conf")}
    settings = environment() | own
    subprocess.run([SCRIPT], env=settings, check=True)
    try:
        yield Slurm(folder, settings)
    finally:
        subprocess.run([SCRIPT, "stop"], env=settings, check=True)
