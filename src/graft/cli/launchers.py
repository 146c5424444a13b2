"""The launchers of a sweep's jobs: whether they can be used here, and how many jobs each runs at once."""

from collections.abc import Mapping
from importlib.util import find_spec
from shutil import which
from typing import Any

from graft.cli.gpus import GPU_LAUNCHER, find_devices
from graft.cli.parallel import parallel_jobs
from graft.errors import UserError

# What must be importable for a launcher or sweeper -> the extra of graft that brings it
EXTRAS = {
    "hydra_plugins.hydra_joblib_launcher": "joblib",
    "hydra_plugins.hydra_submitit_launcher": "slurm",
    "ray": "ray",
    "optuna": "optuna",
}
# hydra/launcher=NAME or hydra/sweeper=NAME -> what must be importable for it
NEEDS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "gpus": "hydra_plugins.hydra_joblib_launcher",
    **dict.fromkeys(("local", "slurm", "submitit_local", "submitit_slurm"), "hydra_plugins.hydra_submitit_launcher"),
    "ray": "ray",
    "optuna": "optuna",
}

LOCAL, SLURM = (f".submitit_launcher.{name}Launcher" for name in ("Local", "Slurm"))


def not_installed(name: str) -> str | None:
    """What to say of the launcher or sweeper `name` where what it needs is not installed."""
    needed = NEEDS.get(name)
    if needed is None or is_installed(needed):
        return None
    return f"is not installed; pip install 'graft[{EXTRAS[needed]}]' brings it"


def is_installed(module: str) -> bool:
    """Whether a module can be imported; a parent that is not there is no error."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def check_launching(choices: Mapping[str, Any], launcher: Mapping[str, Any]) -> list[str]:
    """What keeps the launcher and sweeper that were chosen from being used on this machine.

    Args:
        choices: `hydra.runtime.choices`, where group -> name.
        launcher: `hydra.launcher`.
    """
    chosen = {group: str(choices[group]) for group in ("hydra/launcher", "hydra/sweeper")}
    errors = [f"{group}={name}: {error}" for group, name in chosen.items() if (error := not_installed(name))]
    if errors:
        return errors
    if launcher["_target_"].endswith(SLURM) and which("srun") is None:
        return [f"hydra/launcher={chosen['hydra/launcher']}: found no srun; expected a machine that submits to Slurm"]
    if launcher["_target_"] == GPU_LAUNCHER:
        try:
            find_devices(launcher["devices"])
        except UserError as error:
            return [str(error)]
    return []


def jobs_at_once(launcher: Mapping[str, Any], num_jobs: int) -> int:
    """How many jobs a launcher runs at once on this machine; `num_jobs` is how many there are, 0 if not known."""
    target = launcher["_target_"]
    if target == GPU_LAUNCHER:
        return parallel_jobs(len(find_devices(launcher["devices"])), num_jobs)
    if target.endswith(LOCAL):  # starts all of a batch at once
        return max(1, num_jobs)
    return parallel_jobs(launcher.get("n_jobs", 1), num_jobs)
