"""Adapters as files: what training can have changed, without the weights that stayed."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from graft.errors import UserError
from graft.models.network import Network
from graft.models.weights import state_sha256
from graft.records.files import atomic_write_bytes


def adapter_state(network: Network) -> dict[str, Tensor]:
    """All of an adapted network's state but the backbone's fixed parameters: adapter, mapping, head, norm buffers."""
    fixed = _fixed(network)
    return {
        name: tensor.detach() for name, tensor in network.state_dict(keep_vars=True).items() if id(tensor) not in fixed
    }


def save_adapter(network: Network, path: Path) -> None:
    """Write `adapter_state`, the adapter's settings and the hash of the weights that it belongs to."""
    state = {name: tensor.cpu().contiguous().clone() for name, tensor in adapter_state(network).items()}
    atomic_write_bytes(path, save(state, _identity(network)))


def load_adapter(network: Network, path: Path) -> None:
    """Load what `save_adapter` wrote into a network with the same adapter on the same weights.

    Raises:
        UserError: it belongs to other weights, other settings or another network.
    """
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    for key, value in _identity(network).items():
        if metadata.get(key) != value:
            raise UserError(f"{path}: made for another {key}: {metadata.get(key)}; expected {value}")
    if state.keys() != adapter_state(network).keys():
        names = sorted(state.keys() ^ adapter_state(network).keys())
        raise UserError(f"{path}: does not fit the network; {len(names)} names differ, such as {names[0]}")
    network.load_state_dict(state, strict=False)


def _fixed(network: Network) -> dict[int, str]:
    """Names of the parameters that the adapter keeps as they are, by identity."""
    kept = network.fixed_names
    return {id(parameter): name for name, _, parameter in network.named_group_parameters() if name in kept}


def _identity(network: Network) -> dict[str, str]:
    """What a file and a network must have in common."""
    adaptation = network.backbone.adaptation
    assert adaptation is not None
    fixed = network.fixed_names
    weights = {name: parameter for name, _, parameter in network.named_group_parameters() if name in fixed}
    return {"adapter": json.dumps(asdict(adaptation.adapter)), "weights": state_sha256(weights)}
