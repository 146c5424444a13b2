"""What a strategy will do, as rows of a table."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from graft.models.network import Network
from graft.strategies.engine import parameters_by_name, train_modes
from graft.strategies.phases import ResolvedPhase
from graft.strategies.rules import is_norm


def plan_table(
    network: Network, phases: Sequence[ResolvedPhase], lr: float | None, weight_decay: float
) -> list[dict[str, Any]]:
    """One row for each phase, layer group and setting in it, of plain values.

    Keys: `phase`, `first_epoch`, `epochs` (at most, where `plateau` is true), `plateau`, `group`, `num_parameters`,
    `state` ("trained", "frozen" or "solved"), `lr_scale`, `lr` and `weight_decay` (None unless trained), `norm`
    ("train", "eval", "mixed", or None without norm layers). `lr` is None where that of the optimiser is not known.
    """
    return [row for phase in phases for row in _phase_rows(network, phase, lr, weight_decay)]


def _phase_rows(network: Network, phase: ResolvedPhase, lr: float | None, weight_decay: float) -> list[dict[str, Any]]:
    modes = train_modes(network, phase)
    sizes = {name: parameter.numel() for name, parameter in parameters_by_name(network).items()}
    solved = {name.split(".")[0] for name in network.solved_names()}
    rows = []
    for group, module in network.named_groups().items():
        members = [entry for entry in phase.assignments if entry.group == group]
        common = {
            "phase": phase.name,
            "first_epoch": phase.first_epoch,
            "epochs": phase.max_epochs,
            "plateau": phase.plateau is not None,
            "group": group,
            "norm": _norm_mode(module, modes),
            "lr_scale": None,
            "lr": None,
            "weight_decay": None,
        }
        if group in solved:
            rows.append(common | {"num_parameters": 0, "state": "solved"})
        for scale, decay in dict.fromkeys((entry.lr_scale, entry.weight_decay) for entry in members):
            names = [entry.name for entry in members if (entry.lr_scale, entry.weight_decay) == (scale, decay)]
            row = {"num_parameters": sum(sizes[name] for name in names), "state": "frozen"}
            if scale is not None:
                row |= {"state": "trained", "lr_scale": scale, "lr": None if lr is None else lr * scale}
                row |= {"weight_decay": weight_decay if decay is None else decay}
            rows.append(common | row)
    return rows


def _norm_mode(module: nn.Module, modes: dict[nn.Module, bool]) -> str | None:
    found = {modes[layer] for layer in module.modules() if is_norm(layer) and layer in modes}
    if not found:
        return None
    return "mixed" if len(found) == 2 else ("train" if found.pop() else "eval")
