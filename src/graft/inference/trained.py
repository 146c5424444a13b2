"""The network of a finished run, from the files in its folder alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graft.after.temperature import LIMIT
from graft.data.modalities import AnyView, make_view
from graft.data.preprocessing import Inputs
from graft.errors import UserError
from graft.evaluation import predict_logits
from graft.memory import Fitting, keep_freed_memory
from graft.models.adapters.base import Adapter
from graft.models.backbones.base import Backbone
from graft.models.heads.base import Head
from graft.models.mappings.base import Mapping
from graft.models.network import Network, initial_weights
from graft.models.weights import NETWORK_FILE, read_network


@dataclass(frozen=True)
class Blueprint:
    """What a target network is built of."""

    backbone: Callable[[], Backbone]
    mapping: Callable[[int], Mapping]  # num_features -> mapping
    adapter: Adapter | None
    head: Callable[[int, int], Head]  # num_features, num_classes -> head

    def build(self, num_classes: int, size: int) -> Network:
        """The network as a run writes it, with weights that are of no meaning: an adapter is in it unless merged.

        `size` is that of its inputs.
        """
        with initial_weights(0, "blueprint"):
            backbone = self.backbone()
            if self.adapter is not None and not self.adapter.mergeable:
                backbone = self.adapter.adapt(backbone, size)
            mapping = self.mapping(backbone.num_features)
            return Network(backbone, mapping, self.head(mapping.num_outputs, num_classes))


@dataclass(frozen=True)
class Trained:
    """A trained network with all that its use needs."""

    network: Network  # in eval mode
    view: AnyView
    class_names: tuple[str, ...]
    temperature: float | None  # that logits are divided by; None where the run found none

    @property
    def preprocessing(self) -> Inputs:
        """What inputs go through."""
        preprocessing: Inputs = self.view.preprocessing
        return preprocessing

    def to(self, device: torch.device) -> "Trained":
        """The same, its network moved to the device."""
        self.network.to(device)
        return self

    def logits(self, canvases: Tensor) -> Tensor:
        """float32 [n, k] on the CPU of stored samples [n, ...], such as canvases: the network's own, uncalibrated."""
        device = next(self.network.parameters()).device
        return Fitting(partial(predict_logits, self.network, self.view, device))(canvases)

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits float64 [n, k], divided by the temperature where there is one."""
        return logits.double() / (self.temperature or 1.0)


def open_trained(blueprint: Blueprint, folder: Path, record: dict[str, Any]) -> Trained:
    """The network in a finished run's folder, in the precision and memory format of the run, on the CPU.

    Raises:
        UserError: there are no weights in it, or not those of that network.
    """
    keep_freed_memory()
    state, preprocessing = read_network(folder)
    class_names = tuple(record["classes"]["names"])
    network = blueprint.build(len(class_names), preprocessing.size)
    parameter = next(name for name, _ in network.named_parameters())
    if parameter in state:
        network.to(state[parameter].dtype)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:30])
        raise UserError(f"{folder / NETWORK_FILE}: does not fit the network of the record: {reason} ...") from error
    if record.get("numerics", {}).get("memory_format") == "channels_last":
        network.to(memory_format=torch.channels_last)
    return Trained(
        network.eval(), make_view(preprocessing, None, len(class_names)), class_names, temperature_of(record)
    )


def temperature_of(record: dict[str, Any]) -> float | None:
    """The temperature that the run found; None where it sought none, or where its val images leave it open.

    Where all of them are classified rightly, the search ends at its limit: taken for a temperature, that would make
    every probability 0 or 1.
    """
    found: float | None = record.get("after", {}).get("temperature", {}).get("temperature")
    return None if found is None or not 1 / LIMIT < found < LIMIT else found


def choose_device(name: str) -> torch.device:
    """The device of a name, or for "auto" the fastest kind there is.

    Raises:
        UserError: this machine has none of that kind.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    if not there[name]:
        choices = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise UserError(f"--device {name}: there is none here that torch can use; expected auto or {choices}")
    return torch.device(name)
