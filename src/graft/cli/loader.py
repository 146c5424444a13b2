"""Composing many configurations that differ in values, as the jobs of a sweep do, for the price of a few."""

import copy
from collections.abc import Sequence
from functools import lru_cache

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

Setting = tuple[str | None, tuple[str, ...], RunMode, bool, bool]


class RememberingLoader(ConfigLoaderImpl):
    """Reads and merges the files of each choice of groups once; values are laid over a copy of what came of them.

    Hydra composes a job of a sweep three times, and each time reads thirty files. Files are taken not to change while
    one command runs.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._composed: dict[Setting, DictConfig] = {}

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
                self._composed[setting] = super().load_configuration(config_name, list(rest), *how)
            return self._with_values(self._composed[setting], values, overrides)
        except (HydraException, OmegaConfBaseException, ValueError):
            return super().load_configuration(config_name, overrides, *how)

    def _is_value(self, override: Override) -> bool:
        """Whether an override does no more than set, add or take away a value of the task."""
        return not (
            override.is_sweep_override()
            or override.is_hydra_override()
            or override.package is not None
            or self.repository.group_exists(override.key_or_group)
        )

    def _with_values(self, base: DictConfig, values: list[Override], overrides: Sequence[str]) -> DictConfig:
        config = copy.deepcopy(base)
        self._apply_overrides_to_config(values, config)
        task = [override for text in overrides if not (override := parsed(text)).is_hydra_override()]
        job = config.hydra.job
        naming = job.config.override_dirname
        config.hydra.overrides.task = [override.input_line for override in task]
        job.override_dirname = get_overrides_dirname(task, naming.exclude_keys, naming.item_sep, naming.kv_sep)
        return config


@lru_cache(maxsize=4096)
def parsed(text: str) -> Override:
    """One override.

    Raises:
        HydraException: it is not an override.
    """
    return OverridesParser.create().parse_override(text)
