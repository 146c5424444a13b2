"""The processes of a fit on several devices, where torchrun or srun started the program once for each of them.

A run is several fits with much between them that one process does. So the first process alone runs the program; the
others wait for its fits, in each of which they take part as processes would that were started for it.
"""

import logging
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.launcher import _Launcher
from pytorch_lightning.strategies.launchers.multiprocessing import _GlobalStateSnapshot

from graft.errors import UserError
from graft.sharding import FullySharded

FSDP = "fsdp"  # graft's own, by the name that Lightning has for one which it does not take to the processor
BETWEEN_FITS = timedelta(days=30)  # for as long as the others wait

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], _GlobalStateSnapshot]


def together(run: Callable[[], int]) -> int:
    """Let the first process run the program and the others take part in its fits; returns each one's exit code."""
    become_torchrun()
    join()
    if dist.get_rank() != 0:
        return follow()
    code = 1
    try:
        code = run()
    finally:
        if not _broken:
            tell(code)
    return code


def become_torchrun() -> None:
    """Say in torchrun's variables what srun says in its own."""
    variables = os.environ
    if "RANK" in variables:
        return
    step = variables["SLURM_STEP_NODELIST"]
    num_nodes, num_tasks = int(variables["SLURM_STEP_NUM_NODES"]), int(variables["SLURM_STEP_NUM_TASKS"])
    address = "127.0.0.1" if num_nodes == 1 else SLURMEnvironment.resolve_root_node_address(step)
    port = 15000 + int(variables["SLURM_JOB_ID"]) % 10000
    variables.setdefault("MASTER_ADDR", address)
    variables.setdefault("MASTER_PORT", str(port))
    variables |= {
        "RANK": variables["SLURM_PROCID"],
        "LOCAL_RANK": variables["SLURM_LOCALID"],
        "GROUP_RANK": variables["SLURM_NODEID"],
        "WORLD_SIZE": str(num_tasks),
        "LOCAL_WORLD_SIZE": str(num_tasks // num_nodes),
    }


def join() -> None:
    """Meet the other processes."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group("gloo")
    _channel.append(dist.new_group(backend="gloo", timeout=BETWEEN_FITS))


def follow() -> int:
    """Take part in the fits of the first process until it ends; returns its exit code."""
    logging.disable(logging.INFO)  # the first process speaks for all
    with warnings.catch_warnings(action="ignore"):
        while not isinstance(told := hear(), int):
            function, arguments, keywords, state = told
            state.restore()
            function(*arguments, **keywords)
    return told


def tell(what: Call | int) -> None:
    """Send the others a call in which to take part, or the exit code with which to end."""
    dist.broadcast_object_list([what], group=_channel[0])


def hear() -> Call | int:
    """What the first process tells."""
    told: list[Any] = [None]
    dist.broadcast_object_list(told, group=_channel[0])
    what: Call | int = told[0]
    return what


def num_standing() -> int:
    """How many processes there are that take part in what the first one does."""
    return dist.get_world_size() if _channel else 1


def in_all(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)` returns in each of the processes, called in all of them at once."""
    answers: list[Any] = call_in_all(_answer, (function, arguments), {})
    return answers


def call_in_all(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Let the others make a call in which all take part, and make it here."""
    tell((function, arguments, keywords, _GlobalStateSnapshot.capture()))
    try:
        return function(*arguments, **keywords)
    except BaseException:
        _broken.append(True)  # the others may be waiting in the middle of it
        raise


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    answers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, function(dist.get_rank(), *arguments), group=_channel[0])
    return answers


class _Together(_Launcher):
    """Calls what Lightning would start processes for in those that are there."""

    @property
    def is_interactive_compatible(self) -> bool:
        return False

    def launch(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("trainer", None)
        return call_in_all(function, args, kwargs)

    def kill(self, signum: Any) -> None:
        """Whoever started the processes ends them."""


class StandingDDP(DDPStrategy):
    """DDP over processes that are there already."""

    def _configure_launcher(self) -> None:
        self._launcher = _Together()


class StandingFSDP(FullySharded):
    """FSDP over processes that are there already."""

    def _configure_launcher(self) -> None:
        self._launcher = _Together()


def placement(strategy: Any = "auto") -> dict[str, Any]:
    """Where a trainer fits: the arguments of its processes, beside those of the user or in their place.

    By itself Lightning takes a job of Slurm for one process of several: it refuses other numbers of devices than tasks,
    and hears the signals of a job that is to be queued again; where srun is installed, it warns that it is not used.

    Args:
        strategy: the user's.

    Raises:
        UserError: it is another one than DDP or FSDP, in processes that torchrun or srun started.
    """
    if not _channel:
        environment = {"plugins": [LightningEnvironment()]}
        return environment | ({"strategy": FullySharded(start_method="spawn")} if strategy == FSDP else {})
    if strategy != FSDP and not str(strategy).startswith(("ddp", "auto")):
        raise UserError(f"trainer.strategy={strategy}: processes of torchrun or srun take ddp_spawn or fsdp")
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return {
        "plugins": [TorchElasticEnvironment()],
        "devices": local,
        "num_nodes": dist.get_world_size() // local,
        "strategy": standing(strategy),
    }


def standing(strategy: Any) -> DDPStrategy:
    """The user's strategy for processes that are there already."""
    if strategy == FSDP:
        return StandingFSDP()
    return StandingDDP(find_unused_parameters="unused_parameters_true" in str(strategy))


def one_device() -> dict[str, Any]:
    """As `placement`, for a trainer that fits in this process alone."""
    return {"plugins": [LightningEnvironment()], "devices": 1, "num_nodes": 1, "strategy": "auto"}


_channel: list[Any] = []  # the group in which the first process tells the others
_broken: list[bool] = []  # whether a call failed that the others take part in
