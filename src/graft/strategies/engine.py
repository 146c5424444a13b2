"""The one owner of `requires_grad`, train and eval modes, norm statistics, optimiser groups and learning rates."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer

from graft.errors import UserError
from graft.models.network import Network
from graft.strategies.phases import ResolvedPhase
from graft.strategies.rules import Assignment, has_statistics, is_norm


def parameters_by_name(network: Network) -> dict[str, nn.Parameter]:
    """The network's parameters under the names that rules match."""
    return {name: parameter for name, _, parameter in network.named_group_parameters()}


def apply_phase(network: Network, phase: ResolvedPhase) -> None:
    """Let exactly the phase's trained parameters require gradients, and set the modes.

    Every gradient is dropped: one left over from before a freeze would move the frozen weight at the next step.
    """
    parameters = parameters_by_name(network)
    assert parameters.keys() == {entry.name for entry in phase.assignments}, "the phase is another network's"
    trained = phase.trained_names
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in trained)
        parameter.grad = None
    set_train_modes(train_modes(network, phase))


def train_modes(network: Network, phase: ResolvedPhase) -> dict[nn.Module, bool]:
    """Whether each module is in train mode during the phase.

    A module is where a parameter below it is trained; one without parameters (dropout, stochastic depth) does as its
    parent does. So a frozen layer keeps its running statistics and draws nothing at random. With
    `norm_statistics="eval"` no norm layer updates its statistics, trained or not; with "train" each does that has any.
    """
    parameters = parameters_by_name(network)
    trained = {id(parameters[name]) for name in phase.trained_names}
    modes: dict[nn.Module, bool] = {}

    def visit(module: nn.Module, parent: bool) -> None:
        below = [id(parameter) for parameter in module.parameters()]
        mode = not trained.isdisjoint(below) if below else parent
        if phase.norm_statistics == "train" and has_statistics(module):
            modes[module] = True
        else:
            modes[module] = mode and not (phase.norm_statistics == "eval" and is_norm(module))
        for child in module.children():
            visit(child, mode)

    visit(network, bool(trained))
    for group in network.named_groups().values():
        # A layer group may be a view that gathers modules from several places in the tree; it stands or falls as one.
        if any(True for _ in group.parameters()):
            visit(group, parent=False)
    return modes


def uses_data_statistics(network: Network, phase: ResolvedPhase) -> bool:
    """Whether any norm layer normalises by what the phase's data give it, rather than by what it was loaded with."""
    by_batch = any(mode and has_statistics(module) for module, mode in train_modes(network, phase).items())
    return by_batch or phase.recalibrate


def set_train_modes(modes: Mapping[nn.Module, bool]) -> None:
    """Put every module into its mode; to be repeated after anything that changes modes."""
    for module, mode in modes.items():
        module.training = mode


def frozen_prefix(network: Network, phase: ResolvedPhase) -> int:
    """How many leading layer groups of the backbone the phase freezes; together they are a fixed function."""
    groups = [name for name in network.named_groups() if name.startswith("backbone.")]
    moving = {*phase.trained_groups, *(_with_statistics(network) if phase.norm_statistics == "train" else ())}
    return next((i for i, name in enumerate(groups) if name in moving), len(groups))


def _with_statistics(network: Network) -> list[str]:
    """Names of the groups that hold running statistics."""
    return [name for name, group in network.named_groups().items() if any(map(has_statistics, group.modules()))]


def moved_groups(network: Network, phases: Sequence[ResolvedPhase]) -> frozenset[str]:
    """Names of the layer groups that any of the phases changes, be it only their norm statistics."""
    moved = {group for phase in phases for group in phase.trained_groups}
    if any(phase.recalibrate or phase.norm_statistics == "train" for phase in phases):
        moved.update(_with_statistics(network))
    return frozenset(moved)


def untouched_names(network: Network, phases: Sequence[ResolvedPhase]) -> frozenset[str]:
    """Keys of the network's state in layer groups that none of the phases changes: they are as the stage began."""
    moved = moved_groups(network, phases)
    untouched = {
        id(tensor)
        for name, group in network.named_groups().items()
        if name not in moved and name.startswith("backbone.")
        for tensor in group.state_dict(keep_vars=True).values()
    }
    return frozenset(name for name, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in untouched)


def parameter_groups(network: Network, phase: ResolvedPhase, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups of the phase: one for each layer group, learning-rate scale and weight decay in use.

    Each is a dict of `name` (the layer group's, with the settings added where a layer group needs several), `params`,
    `param_names`, `lr`, `initial_lr` (both `lr` x `lr_scale`), `lr_scale` and `weight_decay`. Frozen parameters are in
    none of them.
    """
    parameters = parameters_by_name(network)
    members: dict[tuple[str, float, float], list[str]] = {}
    for entry in phase.assignments:
        if entry.lr_scale is not None:
            members.setdefault((entry.group, entry.lr_scale, _weight_decay(entry, weight_decay)), []).append(entry.name)
    layer_groups = [group for group, _, _ in members]
    return [
        {
            "name": group if layer_groups.count(group) == 1 else f"{group}(lr_scale={scale:g},weight_decay={decay:g})",
            "params": [parameters[name] for name in names],
            "param_names": names,
            "lr": lr * scale,
            "initial_lr": lr * scale,
            "lr_scale": scale,
            "weight_decay": decay,
        }
        for (group, scale, decay), names in members.items()
    ]


def _weight_decay(entry: Assignment, default: float) -> float:
    return default if entry.weight_decay is None else entry.weight_decay


def make_optimizer(
    network: Network,
    phase: ResolvedPhase,
    factory: Callable[..., Optimizer],
    beside: Mapping[str, nn.Parameter] | None = None,
) -> Optimizer:
    """The optimiser of the phase. `factory` is a `functools.partial` whose keywords hold `lr` and `weight_decay`.

    `beside` are parameters by name that are trained in every phase and are no part of the network, as those of a
    regulariser; they have the learning rate and the weight decay as they are.

    Raises:
        UserError: LBFGS, which minimises over all parameters at once, with several learning rates or weight decay.
    """
    settings = getattr(factory, "keywords", {})
    lr, weight_decay = settings["lr"], settings.get("weight_decay", 0.0)
    groups = parameter_groups(network, phase, lr, weight_decay)
    if beside:
        groups.append(
            {
                "name": "beside",
                "params": list(beside.values()),
                "param_names": list(beside),
                "lr": lr,
                "initial_lr": lr,
                "lr_scale": 1.0,
                "weight_decay": weight_decay,
            }
        )
    if getattr(factory, "func", factory) is LBFGS:
        groups = [_single_group(groups)]
    return factory(groups)


def _single_group(groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if len({group["lr_scale"] for group in groups}) > 1:
        raise UserError("optimizer=lbfgs has one learning rate for all parameters; this strategy sets several")
    if any(group["weight_decay"] for group in groups):
        raise UserError("optimizer=lbfgs has no weight decay; this strategy sets one")
    return groups[0] | {
        "name": "all",
        "params": [parameter for group in groups for parameter in group["params"]],
        "param_names": [name for group in groups for name in group["param_names"]],
    }


def set_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rates of the coming step from their closed form."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def optimizer_state_by_name(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's slots (momentum, second moments, step counts) by parameter name, as plain values and tensors.

    Returns {"param_names": [...], "state": {name: {slot: value}}}; tensors are shared with the optimiser.
    """
    state_dict = optimizer.state_dict()
    names = _names_by_position(state_dict)
    state = {names[position]: slots for position, slots in state_dict["state"].items()}
    return {"param_names": list(names.values()), "state": state}


def restore_optimizer_state(optimizer: Optimizer, carried: Mapping[str, Any]) -> None:
    """Give the parameters that were trained before their slots back; newly thawed ones start with fresh slots."""
    state_dict = optimizer.state_dict()
    names = _names_by_position(state_dict)
    if isinstance(optimizer, LBFGS) and list(names.values()) != carried["param_names"]:
        return  # its curvature pairs are over all parameters together: with others among them they mean nothing
    for position, name in names.items():
        if name in carried["state"]:
            state_dict["state"][position] = deepcopy(carried["state"][name])
    optimizer.load_state_dict(state_dict)


def _names_by_position(state_dict: Mapping[str, Any]) -> dict[int, str]:
    return {
        position: name
        for group in state_dict["param_groups"]
        for position, name in zip(group["params"], group["param_names"], strict=True)
    }
