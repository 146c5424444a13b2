"""Every `_target_` of a configuration: may it be used, and do its arguments fit its signature."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from typing import Any, cast, get_type_hints

from graft.build.values import describe, fits
from graft.errors import UserError, did_you_mean, nearest

ALLOWED = ("graft.", "torch.optim.", "torchvision.", "timm.", "pytorch_lightning.")
SPECIAL = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
MISSING = "???"  # perhaps followed by the key that must be given, where the value is made of another


def locate(target: Any) -> Callable[..., Any]:
    """The class or function that a `_target_` names.

    Raises:
        UserError: it is outside the allowed packages, or there is none.
    """
    if not isinstance(target, str) or not target.startswith(ALLOWED):
        raise UserError(f"_target_={target!r}; expected a name in {', '.join(name.rstrip('.') for name in ALLOWED)}")
    module_name, _, name = target.rpartition(".")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise UserError(f"_target_={target!r}: cannot be imported ({error})") from error
    found = getattr(module, name, None)
    if found is None or not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"_target_={target!r}: {module_name} has no {name}; {did_you_mean(name, public)}")
    result: Callable[..., Any] = found
    return result


def check_target(
    path: str, node: dict[str, Any], supplied: Iterable[str] = (), ours: Iterable[str] = ()
) -> Iterator[str]:
    """What is wrong with a node that has a `_target_`, and with those inside it.

    Args:
        path: where the node is in the configuration.
        node: plain values.
        supplied: arguments that the program passes itself.
        ours: keys that the program reads itself and does not pass on.
    """
    try:
        parameters = arguments_of(node["_target_"])
    except UserError as error:
        yield f"{path}.{error}"
        return
    supplied, ours = set(supplied), set(ours)
    yield from _check_names(path, node, parameters, supplied, ours)
    for name, value in node.items():
        if name in SPECIAL or name in supplied or name in ours:
            continue
        where = f"{path}.{name}"
        if isinstance(value, dict) and "_target_" in value:
            yield from check_target(where, value)
        else:
            yield from _check_value(where, value, parameters.get(name, Any))


def _check_names(
    path: str, node: dict[str, Any], parameters: dict[str, Any], supplied: set[str], ours: set[str]
) -> Iterator[str]:
    signature = signature_of(locate(node["_target_"]))
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    choices = (parameters.keys() | ours) - supplied
    for name in (key for key in node if key not in SPECIAL):
        if name in supplied:
            yield f"{path}.{name}: cannot be set; graft passes it itself"
        elif name not in choices and (not takes_any or nearest(name, choices)):
            match = nearest(name, choices)
            takes = f"{path} takes {', '.join(sorted(choices)) or 'none'}"
            yield f"{path}.{name}: no such key; " + (f"did you mean {f'{path}.{match}'!r}?" if match else takes)
    required = {name for name, parameter in signature.parameters.items() if _is_required(parameter)}
    for name in sorted(required - supplied - node.keys()):
        yield f"{path}.{name}: is missing; expected {describe(parameters[name])}"


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic


def _check_value(path: str, value: Any, hint: Any) -> Iterator[str]:
    if is_missing(value):
        yield from missing_inside(path, value)
    elif not fits(value, hint):
        part = ", or a mapping with a _target_" if isinstance(value, dict) and fits({"_target_": ""}, hint) else ""
        yield f"{path}={value!r}; expected {describe(hint)}{part}"
    elif isinstance(value, dict | list):
        yield from missing_inside(path, value)


def is_missing(value: Any) -> bool:
    """Whether a value, or what it is made of, must still be given."""
    return isinstance(value, str) and value.startswith(MISSING)


def missing_inside(path: str, value: Any) -> Iterator[str]:
    """A line for each `???` in nested plain values."""
    if is_missing(value):
        key = value.removeprefix(MISSING) or path
        yield f"{key}: must be given; write {key}=..."
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from missing_inside(f"{path}.{name}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from missing_inside(f"{path}.{index}", item)


def arguments_of(target: Any) -> dict[str, Any]:
    """The arguments that a `_target_` takes by name, with their annotations, Any where there is none.

    Raises:
        UserError: it is outside the allowed packages, or there is none.
    """
    return _arguments_of(locate(target))


@cache
def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a class or function; the jobs of a sweep ask again and again."""
    return inspect.signature(function)


@cache
def _arguments_of(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        hints = get_type_hints(cast(Any, function).__init__ if isinstance(function, type) else function)
    except (NameError, TypeError):  # annotations that exist for type checkers alone
        hints = {}
    parameters = signature_of(function).parameters.values()
    named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return {parameter.name: hints.get(parameter.name, Any) for parameter in named}
