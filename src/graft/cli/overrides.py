"""What a user typed after `graft`: made digestible for Hydra, and explained where it is wrong."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graft.cli.loader import parsed
from graft.cli.source import PRIMARY, joined_domains
from graft.errors import UserError, did_you_mean, nearest

# What augments images and not the spectrograms of sounds, which are told from their own augmentation's keys.
IMAGES_ALONE = {"flip", "crop_padding", "resized_crop", "rotation", "brightness", "contrast", "saturation", "cutmix"}
SOUNDS_ALONE = {"time_masks", "frequency_masks"}
WHY_NOT_SOUNDS = (
    "the axes of a sound's spectrogram are time and pitch, and its values loudness: mirrored, cropped or coloured, it "
    "would be another sound"
)

BARE_NUMBER = re.compile(r"(?<![^,=])(\d+)(?![^,])")  # stands alone between `=`, commas and the end


def requote(loader: ConfigLoader, overrides: Iterable[str]) -> list[str]:
    """Quote what Hydra would stumble over: `precision=32`, whose choice is a name, and `target.path=~/images`.

    Raises:
        UserError: one has no name in front of its value.
    """
    choices = groups(loader)
    return [_requoted(override, choices) for override in overrides]


def _requoted(override: str, choices: Sequence[str]) -> str:
    key, equals, value = override.partition("=")
    if equals and not key.lstrip("+~").partition("@")[0].strip():
        raise UserError(f"{override!r}: no name in front of the value; expected name=value")
    if key.lstrip("+").partition("@")[0] in choices:
        return key + BARE_NUMBER.sub(r"'\1'", equals + value)
    quoted = f"{key}='{value}'"
    return quoted if equals and _parse(override) is None and _parse(quoted) is not None else override


def _parse(override: str) -> Override | None:
    try:
        return parsed(override)
    except HydraException:
        return None


def groups(loader: ConfigLoader) -> list[str]:
    """The groups of graft, without those of Hydra."""
    return sorted(loader.get_group_options("", ObjectType.GROUP))


def first_words(error: BaseException) -> str:
    """An error of Hydra or OmegaConf in one line."""
    cause = error.__cause__
    text = str(error) or (str(cause) if cause else "") or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    path = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), "")
    words = re.sub(r"^In '([^']+)': \w+ raised while composing config:", r"\1:", lines[0])
    if words.endswith(":") and len(lines) > 1:
        words = f"{words} {lines[1]}"
    return f"{path}: {words}" if path else words


def diagnose(loader: ConfigLoader, overrides: Sequence[str], mode: RunMode) -> dict[str, str]:
    """What is wrong with each override that keeps the configuration from being composed, by its text."""
    errors: dict[str, str] = {}
    parsed: dict[str, Override] = {}
    chosen_of_hydra: list[str] = []
    for text in overrides:
        override = _parse(text)
        if override is None:
            errors[text] = explain_text(text) or text
        elif mode is RunMode.RUN and override.is_sweep_override():
            errors[text] = (
                f"{text}: several values; add -m to run each, or write {override.key_or_group}=[...] for a list"
            )
        elif override.key_or_group.startswith("hydra/"):
            if error := explain_hydra_choice(loader, override):
                errors[text] = error
            else:
                chosen_of_hydra.append(text)
        elif override.key_or_group != "hydra":
            parsed[text] = override
    known = Known.of(loader, [])
    of_groups = {text: item for text, item in parsed.items() if item.key_or_group in known.groups}
    errors |= {text: error for text, item in of_groups.items() if (error := known.explain_choice(item))}
    sound = [text for text, item in of_groups.items() if text not in errors and not item.is_sweep_override()]
    known = Known.of(loader, [*chosen_of_hydra, *sound])
    values = {text: item for text, item in parsed.items() if text not in of_groups}
    return errors | {text: error for text, item in values.items() if (error := known.explain_key(item))}


def explain_hydra_choice(loader: ConfigLoader, override: Override) -> str | None:
    """What is wrong with the choice of a launcher or another of Hydra's own parts."""
    group, name = override.key_or_group, override.value()
    kinds = [f"hydra/{kind}" for kind in loader.get_group_options("hydra", ObjectType.GROUP)]
    if group not in kinds:
        return f"{override.input_line}: no such key; {did_you_mean(group, kinds)}"
    from graft.cli.launchers import not_installed

    if error := not_installed(str(name)):
        return f"{override.input_line}: {error}"
    options = loader.get_group_options(group)
    if name in options:
        return None
    return f"{override.input_line}: no such {group.removeprefix('hydra/')}; {did_you_mean(str(name), options)}"


def speaks_of(error: str, override: str) -> bool:
    """Whether an error begins with the key of an override.

    >>> speaks_of("trainer.max_epoch: no such key", "+trainer.max_epoch=3"), speaks_of("seed='x'", "seeds=3")
    (True, False)
    """
    key = override.lstrip("+~").partition("=")[0]
    return error.startswith((f"{key}:", f"{key}="))


def explain_text(text: str) -> str | None:
    """What is wrong with a word that is not an override."""
    if _parse(text) is not None:
        return None
    from graft.cli.main import command_names

    match = nearest(text, command_names())
    return f"{text}: " + (f"no such command; did you mean {match!r}?" if match else "expected key=value")


@dataclass(frozen=True)
class Known:
    """What may be named: groups, their choices, and the keys under some choice of groups."""

    groups: list[str]
    options: Callable[[str], list[str]]
    chosen: list[str]  # groups with their packages, such as `strategy@pretrain.strategy`
    config: DictConfig  # without Hydra's own part
    hydra: DictConfig  # that part alone

    @classmethod
    def of(cls, loader: ConfigLoader, group_overrides: list[str]) -> "Known":
        """What may be named under these choices, or under the defaults where they do not go together."""
        try:
            config = loader.load_configuration(PRIMARY, group_overrides, RunMode.RUN)
        except (HydraException, OmegaConfBaseException):
            config = loader.load_configuration(PRIMARY, [], RunMode.RUN)
        chosen = [str(name) for name in config.hydra.runtime.choices if not str(name).startswith("hydra/")]
        with_keys = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        of_hydra = OmegaConf.masked_copy(config, ["hydra"])
        return cls(groups(loader), loader.get_group_options, chosen, with_keys, of_hydra)

    def explain_choice(self, override: Override) -> str | None:
        """What is wrong with an override of a group."""
        group, package = override.key_or_group, override.package
        where = f"{group}@{package}" if package else group
        if where not in self.chosen:
            places = [name for name in self.chosen if name.partition("@")[0] == group]
            if not places:
                return f"{override.input_line}: {group} is not chosen for a run; graft ls {group} says what is there"
            return f"{where}: no such group here; {did_you_mean(where, places)}"
        values = override.sweep_string_iterator() if override.is_discrete_sweep() else [override.value()]
        if override.is_delete() and any(isinstance(value, list) for value in values):
            return f"{override.input_line}: leaves out one choice; write ~{where} for whatever is chosen"
        options = self.options(group)
        listed = [value if isinstance(value, list) else [value] for value in values]
        for value in chain.from_iterable(listed):
            name = str(value).strip("'\"")
            for one in joined_domains(f"{group}/{name}") or [name]:
                if value is None or one not in options:
                    return f"{where}={name}: no such {group}; {did_you_mean(one, options)}"
        return None

    def explain_key(self, override: Override) -> str | None:
        """What is wrong with an override of a value."""
        if override.package is not None:
            return f"{override.input_line}: no group is called {override.key_or_group!r}; " + did_you_mean(
                override.key_or_group, self.groups
            )
        path = override.key_or_group.split(".")
        if override.is_add():
            return f"{override.input_line}: it is there already; leave the + out" if self._taken(path) else None
        return None if override.is_force_add() else self._explain_path(path)

    def _taken(self, path: list[str]) -> bool:
        *above, key = path
        parent = _select(self.config, ".".join(above)) if above else self.config
        refers = isinstance(parent, DictConfig) and key in parent and OmegaConf.is_interpolation(parent, key)
        return refers or _select(self.config, ".".join(path)) is not None

    def _explain_path(self, path: list[str]) -> str | None:
        node: Any = self._whole(path)
        for depth, key in enumerate(path):
            names = _children(node)
            if key not in names:
                return self._no_such_key(path, depth, names)
            node = _select(node, key) if isinstance(node, DictConfig) else node[int(key)]
        return None

    def _no_such_key(self, path: list[str], depth: int, names: list[str]) -> str:
        parent, key = ".".join(path[:depth]), path[depth]
        if key in IMAGES_ALONE and set(names) >= SOUNDS_ALONE:
            return f"{'.'.join(path)}: {WHY_NOT_SOUNDS}; {parent} has {', '.join(names)}"
        if depth == 0:
            names = sorted({*names, *self.groups})
        match = nearest(key, names) or next(
            (name for name in names if key in _children(self._at(path[:depth], name))), None
        )
        if match is not None:
            rest = [match, key] if match != nearest(key, names) else [match, *path[depth + 1 :]]
            return f"{'.'.join(path)}: no such key; did you mean {'.'.join([*path[:depth], *rest])!r}?"
        if parent in self.groups and (choice := nearest(key, self.options(parent))):
            return f"{'.'.join(path)}: no such key; {parent}={choice} brings {parent}.{choice}"
        if not names:
            return f"{'.'.join(path)}: no such key; {parent} has none"
        return f"{'.'.join(path)}: no such key; {parent or 'graft'} has {', '.join(names)}"

    def _at(self, path: list[str], name: str) -> Any:
        return _select(self._whole(path), ".".join([*path, name]))

    def _whole(self, path: list[str]) -> DictConfig:
        return self.hydra if path[:1] == ["hydra"] else self.config


def _select(node: DictConfig, path: str) -> Any:
    """What is there; None for what is missing, and for an interpolation that leads to what is missing."""
    try:
        return OmegaConf.select(node, path, throw_on_missing=False)
    except OmegaConfBaseException:
        return None


def _children(node: Any) -> list[str]:
    if isinstance(node, DictConfig):
        return [] if node._is_none() else [str(key) for key in node if not str(key).startswith("_")]
    return [str(index) for index in range(len(node))] if isinstance(node, ListConfig) else []
