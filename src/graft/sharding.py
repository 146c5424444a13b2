"""FSDP: each process keeps its share of every weight, of its gradient and of the optimiser's state.

Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023, by `torch.distributed.fsdp`,
which splits each weight along its first dimension. A unit of the network has its weights put together while it
computes, forwards and backwards, and no longer.

All that leaves the processes is whole: the states of network and optimiser are put together wherever they are asked
for, so that checkpoints are those of a run in one process, and either goes on from the other's.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch.distributed as dist
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


class FullySharded(DDPStrategy):
    """Trains a copy of a module's `network`, split over all processes.

    The network itself stays whole, for what comes after the fit. Its `units()` say what is put together at a time.
    """

    _whole: nn.Module | None = None  # the network, while its copy is trained
    _buffers: Sequence[Tensor] = ()

    def configure_ddp(self) -> None:
        """Split the network in place of wrapping it for DDP."""
        module: Any = self.lightning_module
        self._whole, module.network = module.network, deepcopy(module.network)
        shard(module.network, module.network.units(), init_device_mesh(self.root_device.type, (self.world_size,)))
        self._buffers = list(module.network.buffers())

    def setup_optimizers(self, trainer: Trainer) -> None:
        """Make them and let their states be whole outside."""
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            keep_state_whole(optimizer)

    def teardown(self) -> None:
        """Leave the module with the whole network, as it was before the fit: what is split cannot leave its process."""
        if self._whole is not None:
            module: Any = self.lightning_module
            module.network, self.optimizers, self._buffers, self._whole = self._whole, [], [], None
        super().teardown()

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """As DDP has it, running statistics are those of the first process."""
        self._share_buffers()
        return super().training_step(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """With the first process' running statistics."""
        self._share_buffers()
        return super().validation_step(*args, **kwargs)

    def _share_buffers(self) -> None:
        sending: list[Any] = [dist.broadcast(buffer, 0, async_op=True) for buffer in self._buffers]
        for sent in sending:
            sent.wait()


def shard(network: nn.Module, units: list[nn.Module], mesh: DeviceMesh) -> None:
    """Split the weights of each unit over the mesh, inner units before those that hold them; its state stays whole."""
    for unit in units:
        if any(True for _ in unit.parameters()):
            unit.register_forward_hook(_no_view)
            fully_shard(unit, mesh=mesh)
    network.register_state_dict_post_hook(_put_together)


def _no_view(module: nn.Module, inputs: Any, output: Any) -> Any:
    """What writes into a view of a unit's output would go past the hook that puts its weights together backwards."""
    if isinstance(output, tuple):
        return tuple(map(_own, output))
    return _own(output)


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value._is_view() else value


def _put_together(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for name, value in state.items():
        state[name] = whole(value)


def keep_state_whole(optimizer: Optimizer) -> None:
    """Split the states that an optimiser has of split weights; its `state_dict` gives and takes them whole."""
    for parameter, slots in optimizer.state.items():
        slots.update({slot: like(parameter, value) for slot, value in slots.items()})

    def put_together(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return state_dict | {"state": apply_to_collection(state_dict["state"], DTensor, whole)}

    def split(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        parameters = dict(enumerate(_parameters(optimizer)))
        state = {
            position: {slot: like(parameters[position], value) for slot, value in slots.items()}
            for position, slots in state_dict["state"].items()
        }
        return state_dict | {"state": state}

    optimizer.register_state_dict_post_hook(put_together)
    optimizer.register_load_state_dict_pre_hook(split)


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def whole(value: Any) -> Any:
    """A split tensor put together in memory of the processor, where it takes none of the device's; others as they are.

    All processes have to ask for it.
    """
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def like(parameter: Tensor, value: Any) -> Any:
    """What an optimiser keeps of a weight, split as the weight is; values of another shape as they are."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    if isinstance(value, DTensor):
        return value
    there = value.to(parameter.device)
    return distribute_tensor(there, parameter.device_mesh, parameter.placements, src_data_rank=None)
