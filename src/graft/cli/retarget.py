"""The target of a finished run, or another one in its place, composed as for a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graft.cli.compose import compose, refuse, register_resolvers
from graft.cli.loader import parsed
from graft.cli.overrides import Known, explain_text, first_words, groups, requote
from graft.errors import UserError

GROUP = "target"
PLACES = ("target.path", "target.root")  # keys whose values are paths
COMPOSED = Path(".hydra", "config.yaml")  # what Hydra composed for the run, with its interpolations


def names_a_place(loader: ConfigLoader, overrides: Sequence[str]) -> bool:
    """Whether overrides say where data are, so that relative paths begin in the current folder."""
    return any(item.key_or_group in (GROUP, *PLACES) for item in target_overrides(loader, overrides))


def target_overrides(loader: ConfigLoader, overrides: Sequence[str]) -> list[Override]:
    """The overrides, all of which must be of the target.

    Raises:
        UserError: with a line for each that is not.
    """
    overrides = requote(loader, overrides)
    refuse([line for text in overrides if (line := explain_text(text))])
    items = [parsed(text) for text in overrides]
    refuse(
        [
            f"{item.input_line}: is settled by the run; only target=NAME and target.KEY=VALUE can be given here"
            for item in items
            if item.key_or_group.partition(".")[0] != GROUP or item.package
        ]
    )
    refuse([f"{item.input_line}: several values; expected one" for item in items if item.is_sweep_override()])
    return items


def target_config(
    loader: ConfigLoader, folder: Path, record: dict[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """The plain configuration of the target: the run's own, with values changed, or another that is chosen.

    Args:
        loader: what composes.
        folder: the run's.
        record: the run's.
        overrides: `target=NAME` and `target.KEY=VALUE`.

    Raises:
        UserError: with a line for each override that cannot be used.
    """
    items = target_overrides(loader, overrides)
    own: dict[str, Any] = record["config"][GROUP]
    if not items:
        return own
    paths = {name: str(Path(started_in_or_here(folder), value)) for name, value in record["config"]["paths"].items()}
    if any(item.key_or_group == GROUP for item in items):
        places = [f"paths.{name}={value}" for name, value in paths.items()]
        chosen: dict[str, Any] = compose(loader, [*overrides, *places])[GROUP]
        return chosen
    if not (folder / COMPOSED).is_file():
        raise UserError(f"{folder}: holds no {COMPOSED}, whose values could be changed; choose anew with target=NAME")
    return changed(loader, OmegaConf.load(folder / COMPOSED), items, paths)


def started_in_or_here(folder: Path) -> Path:
    """Where the run in a folder was started, as far as is known."""
    from graft.cli.commands.resume import started_in

    return Path(started_in(folder) or Path.cwd())


def changed(loader: ConfigLoader, composed: Any, items: Sequence[Override], paths: dict[str, str]) -> dict[str, Any]:
    """The target of a composed configuration under overrides of values, resolved."""
    assert isinstance(composed, DictConfig)
    register_resolvers()
    known = Known(groups(loader), loader.get_group_options, [], composed, OmegaConf.create({}))
    refuse([error for item in items if (error := known.explain_key(item))])
    composed.paths = paths
    OmegaConf.set_struct(composed, True)
    try:
        ConfigLoaderImpl._apply_overrides_to_config(list(items), composed)
        target = OmegaConf.to_container(composed[GROUP], resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(first_words(error)) from error
    assert isinstance(target, dict)
    return {str(key): value for key, value in target.items()}
