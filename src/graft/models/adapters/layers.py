"""Which layers of a backbone an adapter is put around."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graft.batch import in_dtype
from graft.errors import UserError, did_you_mean
from graft.models.adapters.attention import OpenAttention, can_open
from graft.models.backbones.base import Backbone

Kind = Literal["linear", "convolution"]
KINDS: dict[type[nn.Module], Kind] = {nn.Linear: "linear", nn.Conv2d: "convolution"}
PASSED_BY = "layers whose weights are used without calling them"


@dataclass(frozen=True)
class Targets:
    """The layers that an adapter is meant for."""

    groups: Sequence[str | int] | None = None  # layer groups of the backbone by name or position; None: all
    kinds: Sequence[Kind] = ("linear", "convolution")

    def __str__(self) -> str:
        groups = "all layer groups" if self.groups is None else ", ".join(map(str, self.groups)) or "no layer group"
        return f"{' and '.join(self.kinds) or 'no'} layers in {groups}"

    def group_names(self, backbone: Backbone) -> tuple[str, ...]:
        """Names of the layer groups.

        Raises:
            UserError: a group that the backbone does not have.
        """
        names = tuple(backbone.layer_groups)
        return names if self.groups is None else tuple(_group_name(group, names) for group in self.groups)


def _group_name(group: str | int, names: Sequence[str]) -> str:
    if isinstance(group, str):
        if group not in names:
            raise UserError(
                f"adapter.targets.groups: the backbone has no layer group {group!r}; {did_you_mean(group, names)}"
            )
        return group
    if not -len(names) <= group < len(names):
        raise UserError(
            f"adapter.targets.groups: {group} is outside the backbone's {len(names)} layer groups ({', '.join(names)})"
        )
    return names[group]


def find_layers(
    backbone: Backbone, size: int, targets: Targets, refusal: Callable[[nn.Module, int], str | None]
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The layers that can be taken, by path, and those that cannot, with the reason.

    Self-attention of torch that is among the targets is opened (`OpenAttention`).

    Args:
        backbone: plain.
        size: height and width of its inputs.
        targets: what the adapter is meant for.
        refusal: why a layer, whose inputs have so many axes, cannot be taken; None where it can.
    """
    called = called_modules(backbone, size)
    members = {
        id(parameter)
        for name in targets.group_names(backbone)
        for parameter in backbone.layer_groups[name].parameters()
    }
    if "linear" in targets.kinds:
        called |= _open_attention(backbone, called, members)
    taken: dict[str, nn.Module] = {}
    skipped: dict[str, str] = {}
    for path, layer in backbone.named_modules():
        if _kind(layer) not in targets.kinds or id(layer.weight) not in members:
            continue
        reason = refusal(layer, called[layer]) if layer in called else PASSED_BY
        if reason is None:
            taken[path] = layer
        else:
            skipped[path] = reason
    return taken, skipped


def _kind(layer: nn.Module) -> Kind | None:
    return next((kind for family, kind in KINDS.items() if isinstance(layer, family)), None)


def called_modules(backbone: Backbone, size: int) -> dict[nn.Module, int]:
    """The modules that one forward pass calls, and the axes of their inputs; attention only where it is to itself."""
    called: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        attends_elsewhere = isinstance(module, nn.MultiheadAttention) and len({id(x) for x in inputs[:3]}) > 1
        if not attends_elsewhere:
            called[module] = inputs[0].ndim if inputs and isinstance(inputs[0], Tensor) else 0

    call_once(backbone, size, note)
    return called


@torch.no_grad()
def call_once(backbone: Backbone, size: int, note: Callable[[nn.Module, tuple[Any, ...]], None]) -> None:
    """Pass a blank input of that size through the backbone in eval mode; `note` is told of every module called.

    `note` takes a module and its inputs.
    """
    hooks = [module.register_forward_pre_hook(note) for module in backbone.modules()]
    training, weight = backbone.training, next(backbone.parameters())
    blank = backbone.preprocessing.with_size(size).blank(1).to(weight.device)
    backbone.eval()(in_dtype(blank, weight.dtype))
    backbone.train(training)
    for hook in hooks:
        hook.remove()


def _open_attention(backbone: Backbone, called: dict[nn.Module, int], members: set[int]) -> dict[nn.Module, int]:
    """Open the attention modules that are called and targets; returns their projections as `called_modules` does."""
    projections: dict[nn.Module, int] = {}
    for path, module in list(backbone.named_modules()):
        if can_open(module) and module in called and id(module.in_proj_weight) in members:
            opened = OpenAttention(module)
            replace_module(backbone, path, opened)
            projections |= {opened.in_proj: called[module], opened.out_proj: called[module]}
    return projections


def replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` where `path` leads."""
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
