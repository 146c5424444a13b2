"""The best configuration of a search as a file of `experiment/`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from graft.cli.compose import compose, compose_job, hydra_application, plain_config
from graft.cli.loader import parsed
from graft.cli.overrides import requote
from graft.cli.search.space import own_overrides
from graft.cli.source import PRIMARY
from graft.errors import UserError
from graft.records.files import atomic_write_bytes
from graft.records.record import run_identity
from graft.reports.notes import shown
from graft.reports.search import SearchResult, Trial, figure

NAME = "best"
FOLDER = "conf"  # in the sweep's folder, laid out like graft's own
PRESETS = ("experiment", "hparams_search", "debug")  # groups whose files set what is written out here instead


def write_best(folder: Path, config_dir: str | None, search: Mapping[str, Any], result: SearchResult) -> str:
    """Write the best trial's configuration into the sweep's folder; returns a line that says how to use it.

    The file is read back, and must give the identity that the trial's run has.
    """
    best, own_groups = result.best[0], Path(config_dir) if config_dir else None
    overrides = [*search["fixed"], *own_overrides(best.params)]
    path = folder / FOLDER / "experiment" / f"{NAME}.yaml"
    with hydra_application(own_groups) as hydra:
        wanted = compose_job(hydra.config_loader, requote(hydra.config_loader, overrides))
        body = experiment_file(hydra.config_loader, overrides, wanted)
    use = f"graft experiment={NAME} --config-dir {shown(folder / FOLDER)}"
    if own_groups:
        use = f"graft experiment={NAME} --config-dir {own_groups}, once the file is copied to {own_groups}/experiment"
    atomic_write_bytes(path, (header(best, search, result, use) + body).encode())
    if own_groups is None:
        with hydra_application(folder / FOLDER) as hydra:
            found = compose(hydra.config_loader, [f"experiment={NAME}"])
        assert run_identity(found) == run_identity(wanted), path
    return f"{shown(path)}: {use}"


def header(best: Trial, search: Mapping[str, Any], result: SearchResult, use: str) -> str:
    """The comment that the file begins with."""
    lines = [
        f"The best of {len(result.best)} complete trials of a search",
        "",
        f"Command: {use}",
        f"Expected: {result.metric} {figure(best.value)}, by which it was chosen; on test it may be lower",
        f"Study: {search['study']} in {search['storage']}, trial {best.number}",
    ]
    return "# @package _global_\n" + "".join(f"# {line}".rstrip() + "\n" for line in lines)


def experiment_file(loader: ConfigLoader, overrides: Sequence[str], wanted: Mapping[str, Any]) -> str:
    """YAML that makes the default configuration the one that the overrides make.

    Choices of groups are overridden in its defaults, whoever made them, and values follow: those that were typed as
    they are, then whatever else the presets among the overrides set.

    Raises:
        UserError: an override takes something away, which a file cannot.
    """
    items = [parsed(text) for text in requote(loader, overrides)]
    if removing := next((item for item in items if item.is_delete()), None):
        raise UserError(f"{removing.input_line}: cannot be said in an experiment's file")
    chosen = choices(loader, items)
    values: dict[str, Any] = {}
    for item in items:
        if not loader.get_group_options(item.key_or_group) and item.package is None:
            insert(values, item.key_or_group, item.value())
    written = [f"{group}={value_text(value)}" for group, value in chosen.items()]
    typed = [str(item.input_line) for item in items if item.key_or_group and is_value(loader, item)]
    reached = plain_config(load(loader, [*written, *typed]), loader)
    for key, value in differences(reached, wanted):
        insert(values, key, value)
    content: dict[str, Any] = {"defaults": [{f"override /{group}": value} for group, value in chosen.items()]}
    return yaml.safe_dump(content | values, sort_keys=False, width=1000)


def choices(loader: ConfigLoader, items: Sequence[Override]) -> dict[str, Any]:
    """The groups, with their packages, that are not chosen as by default, presets aside."""
    usual = load(loader, []).hydra.runtime.choices
    groups = [str(item.input_line) for item in items if not is_value(loader, item)]
    found = load(loader, groups).hydra.runtime.choices
    named = {text.partition("=")[0].lstrip("+") for text in groups}
    return {
        str(group): value if isinstance(value, str) or value is None else list(value)
        for group, value in found.items()
        if (group in usual or group in named)
        and value != usual.get(group)
        and str(group).partition("/")[0] not in (*PRESETS, "hydra")
    }


def is_value(loader: ConfigLoader, item: Override) -> bool:
    """Whether an override sets a value rather than choosing of a group."""
    return item.package is None and not loader.get_group_options(item.key_or_group)


def load(loader: ConfigLoader, overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes."""
    return loader.load_configuration(PRIMARY, list(overrides), RunMode.RUN)


def value_text(value: Any) -> str:
    """A choice as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(value)}]"
    return "null" if value is None else f"'{value}'"


def insert(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value by its dotted key in nested dicts."""
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value


def differences(reached: Any, wanted: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of what must be set in one configuration to make it the other."""
    for key, value in wanted.items():
        if isinstance(value, dict) and value and isinstance(reached.get(key), dict):
            yield from differences(reached[key], value, f"{prefix}{key}.")
        elif key not in reached or reached[key] != value:
            yield f"{prefix}{key}", value
