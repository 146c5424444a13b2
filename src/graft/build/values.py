"""Whether a plain value fits a type annotation."""

import collections.abc
import types
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

SCALARS: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    complex: (int, float),
    str: (str,),
    bool: (bool,),
    Path: (str,),
    types.NoneType: (types.NoneType,),
}
MAPPINGS = (dict, collections.abc.Mapping)


def fits(value: Any, hint: Any) -> bool:
    """Whether `value`, as it comes from a YAML file, can stand for `hint`; what cannot be judged fits.

    >>> fits(3, float), fits("abc", int | None), fits([1, 2], tuple[int, ...]), fits(True, int)
    (True, False, True, False)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in arguments)
    kind = origin or hint
    if kind in SCALARS:
        return isinstance(value, SCALARS[kind]) and (kind is bool or not isinstance(value, bool))
    if _is_sequence(kind):
        return isinstance(value, list) and _items_fit(value, kind, arguments)
    if kind in MAPPINGS:
        return isinstance(value, dict) and (len(arguments) < 2 or all(fits(v, arguments[1]) for v in value.values()))
    if is_dataclass(kind):
        return isinstance(value, dict)
    return not _is_foreign_class(kind) or (isinstance(value, dict) and "_target_" in value)


def _is_sequence(kind: Any) -> bool:
    """Whether a list can stand for `kind`."""
    if not isinstance(kind, type) or kind in (object, Any) or getattr(kind, "_is_protocol", False):
        return False
    return issubclass(kind, tuple | set | frozenset) or issubclass(list, kind)


def _is_foreign_class(kind: Any) -> bool:
    """Whether `kind` is a class of which no plain value is an instance."""
    if not isinstance(kind, type) or kind in (object, Any, *SCALARS, *MAPPINGS):
        return False
    return not _is_sequence(kind) and not is_dataclass(kind)


def _items_fit(value: list[Any], kind: type, arguments: tuple[Any, ...]) -> bool:
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    return not arguments or all(fits(item, arguments[0]) for item in value)


def describe(hint: Any) -> str:
    """An annotation in the words of a YAML file.

    >>> describe(int | None), describe(tuple[float, float]), describe(Literal["a", "b"])
    ('a whole number or null', 'a list of 2 numbers', "'a' or 'b'")
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        plain = [option for option in arguments if not _is_foreign_class(get_origin(option) or option)]
        return " or ".join(dict.fromkeys(map(describe, plain or arguments)))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    kind = origin or hint
    words = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        Path: "a path",
        types.NoneType: "null",
    }
    if kind in words:
        return words[kind]
    if _is_sequence(kind):
        return _describe_sequence(kind, arguments)
    return "a mapping" if kind in MAPPINGS or is_dataclass(kind) else f"a {getattr(kind, '__name__', kind)}"


def _describe_sequence(kind: type, arguments: tuple[Any, ...]) -> str:
    if not arguments:
        return "a list"
    item = describe(arguments[0]).removeprefix("a ")
    count = f"{len(arguments)} " if kind is tuple and arguments[-1] is not Ellipsis else ""
    return f"a list of {count}{item}s"
