"""Whether a search can be begun at all, before anything is written or run."""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from graft.cli.search.settings import search_settings
from graft.cli.search.space import read_space
from graft.cli.search.study import make_pruner, make_sampler, most_trials


def corner_jobs(loader: ConfigLoader, overrides: Sequence[str], sweeper: DictConfig) -> list[list[str]]:
    """The overrides of a few jobs, between which lie all that a search may come to.

    Raises:
        UserError: a setting of the search cannot be used.
    """
    node: Any = OmegaConf.to_container(sweeper, resolve=True)
    settings = search_settings(node)
    space = read_space(loader, overrides, settings.params)
    distributions = space.distributions()
    make_sampler(settings, distributions)
    make_pruner(settings.pruner, settings.pruner_options)
    most_trials(settings, distributions)
    return list(space.corners())
