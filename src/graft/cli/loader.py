"""Composing many configurations that differ in values, as the jobs of a sweep do, for the price of a few."""

import pickle
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

Setting = tuple[str | None, tuple[str, ...], RunMode, bool, bool]

OF_A_RUN = (
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
    "hydra.mode",
)  # what graft itself says to Hydra of a run or sweep


class RememberingLoader(ConfigLoaderImpl):
    """Reads and merges the files of each choice of groups once, and lays values over a copy of what came of them.

    Hydra composes a job of a sweep three times, and reads thirty files each time. Files are taken not to change while
    one command runs.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._composed: dict[Setting, bytes] = {}  # pickled: read back in a fifth of the time of a deep copy
        self._options: dict[tuple[str, ObjectType | None], list[str]] = {}
        self._plain: dict[tuple[str, ...], bytes] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The same as Hydra's own, also in what it raises."""
        how = (run_mode, from_shell, validate_sweep_overrides)
        try:
            values = [override for text in overrides if self._is_value(override := parsed(text))]
            texts = {override.input_line for override in values}
            rest = tuple(text for text in overrides if text not in texts)
            if (setting := (config_name, rest, *how)) not in self._composed:
                self._composed[setting] = pickle.dumps(super().load_configuration(config_name, list(rest), *how))
            return self._with_values(pickle.loads(self._composed[setting]), values, overrides)
        except (HydraException, OmegaConfBaseException, ValueError):
            return super().load_configuration(config_name, overrides, *how)

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """The same as Hydra's own, each listed once."""
        if config_name is not None or overrides:
            return super().get_group_options(group_name, results_filter, config_name, overrides)
        if (group_name, results_filter) not in self._options:
            self._options[group_name, results_filter] = super().get_group_options(group_name, results_filter)
        return list(self._options[group_name, results_filter])

    def plain(self, overrides: Sequence[str], resolve: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The plain configuration of a task under these overrides: a copy of what `resolve` returned the first time.

        A job of a sweep is composed to be checked, and once more by Hydra to be run.
        """
        key = tuple(overrides)
        if key not in self._plain:
            self._plain[key] = pickle.dumps(resolve())
        config: dict[str, Any] = pickle.loads(self._plain[key])
        return config

    def _is_value(self, override: Override) -> bool:
        """Whether an override does no more than set, add or take away a value of the task."""
        return override.key_or_group in OF_A_RUN or not (
            override.is_sweep_override()
            or override.is_hydra_override()
            or override.package is not None
            or self.repository.group_exists(override.key_or_group)
        )

    def _with_values(self, config: DictConfig, values: list[Override], overrides: Sequence[str]) -> DictConfig:
        self._apply_overrides_to_config(values, config)
        task = [override for text in overrides if not (override := parsed(text)).is_hydra_override()]
        job = config.hydra.job
        naming = job.config.override_dirname
        config.hydra.overrides.task = [override.input_line for override in task]
        config.hydra.overrides.hydra = [text for text in overrides if parsed(text).is_hydra_override()]
        job.override_dirname = get_overrides_dirname(task, naming.exclude_keys, naming.item_sep, naming.kv_sep)
        return config


@lru_cache(maxsize=4096)
def parsed(text: str) -> Override:
    """One override.

    Raises:
        HydraException: it is not an override.
    """
    return OverridesParser.create().parse_override(text)
