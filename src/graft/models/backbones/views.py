"""Parts of a model that is no sequence, as modules that share its parameters."""

from collections.abc import Callable

from torch import nn


def view_of_group(module: nn.Module, prefix: str, group: str, group_of: Callable[[str], str]) -> nn.Module:
    """The part of `module` that is in the group: the module itself where that is all of it."""
    tensors = [*module.named_parameters(prefix.rstrip(".")), *module.named_buffers(prefix.rstrip("."))]
    if tensors and all(group_of(name) == group for name, _ in tensors):
        return module
    view = nn.Module()
    for name, parameter in module.named_parameters(recurse=False):
        if group_of(prefix + name) == group:
            view.register_parameter(name, parameter)
    for name, buffer in module.named_buffers(recurse=False):
        if group_of(prefix + name) == group:
            view.register_buffer(name, buffer, persistent=name not in module._non_persistent_buffers_set)
    for name, child in module.named_children():
        part = view_of_group(child, f"{prefix}{name}.", group, group_of)
        if any(True for _ in part.parameters()) or any(True for _ in part.buffers()):
            view.add_module(name, part)
    return view
