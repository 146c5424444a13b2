"""What there is to choose from: groups, their choices, and the line that describes each."""

import re
from itertools import takewhile
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType

from graft.cli.overrides import groups
from graft.cli.source import SHARED
from graft.errors import UserError, did_you_mean, nearest


def all_groups(loader: ConfigLoader) -> list[str]:
    """Every group with choices of graft's: its own, and those of Hydra's that it adds to, such as `hydra/launcher`."""
    own = [source for source in loader.get_sources() if source.scheme() == "graft" and source.is_group("hydra")]
    added = {f"hydra/{name}" for source in own for name in source.list("hydra", ObjectType.GROUP)}
    return sorted({*groups(loader), *added})


def check_group(loader: ConfigLoader, group: str) -> None:
    """Refuse a group that is not there.

    Raises:
        UserError: there is no such group.
    """
    known = all_groups(loader)
    if group in known:
        return
    first = group.partition("/")[0]
    if first != group and first in known:
        raise UserError(f"{group}: expected a group, such as {first}; graft show {group} prints one of its choices")
    holders = [name for name in known if group in loader.get_group_options(name)]
    if holders:
        raise UserError(f"{group}: no such group, but one of the choices of {', '.join(holders)}")
    raise UserError(f"{group}: no such group; {did_you_mean(group, known)}")


def choices(loader: ConfigLoader, group: str) -> list[str]:
    """The names that `group=` takes."""
    check_group(loader, group)
    return sorted(name for name in loader.get_group_options(group) if group != "hydra" or name != "config")


def choices_called(loader: ConfigLoader, name: str) -> list[str]:
    """Every `group/name` of that name, or else of the nearest one."""
    by_name: dict[str, list[str]] = {}
    for group in groups(loader):
        for choice in choices(loader, group):
            by_name.setdefault(choice, []).append(f"{group}/{choice}")
    match = nearest(name, by_name)
    return by_name[match] if match is not None else []


def find_file(loader: ConfigLoader, group: str, name: str) -> Path:
    """The YAML file behind `group=name`, the user's own before that of graft.

    Raises:
        UserError: there is no such group or choice.
    """
    if name not in choices(loader, group):
        raise UserError(f"{group}/{name}: no such {group}; {did_you_mean(name, choices(loader, group))}")
    for source in loader.get_sources():
        path = Path(source.path) / SHARED.get(group, group) / f"{name}.yaml"
        if source.scheme() == "graft" and path.is_file():
            return path
    raise UserError(f"{group}/{name}: is part of Hydra and has no file here")


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a choice.

    Raises:
        UserError: it is no such name.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name):
        raise UserError(f"{name!r}: not a name; expected letters, digits and _ - . after a first letter")


def check_free(path: Path) -> None:
    """Refuse to overwrite a file.

    Raises:
        UserError: there is one.
    """
    if path.exists():
        raise UserError(f"{path}: exists already")


def described(loader: ConfigLoader, group: str, name: str) -> str:
    """The line that describes a choice; one that comes without a file of graft's or the user's has none."""
    try:
        return description(find_file(loader, group, name))
    except UserError:
        return "Of Hydra, or of a plug-in"


def description(path: Path) -> str:
    """The first sentence of the comment that a YAML file starts with, instructions to Hydra aside.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "a.yaml"
    >>> _ = file.write_text("# @package _global_\\n# What it is,\\n# in short. More.\\nkey: 1\\n")
    >>> description(file)
    'What it is, in short.'
    """
    lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    text = (line.removeprefix("#").strip() for line in lines if not line.startswith("# @"))
    paragraph = " ".join(takewhile(bool, text))
    return re.split(r"(?<=[a-z)]\.) (?=[A-Z])", paragraph, maxsplit=1)[0]
