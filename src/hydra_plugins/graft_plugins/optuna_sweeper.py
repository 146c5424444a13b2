"""The sweeper behind `hydra/sweeper=optuna`; Hydra imports it at each start, so it imports next to nothing itself."""

from pathlib import Path
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class OptunaSweeper(Sweeper):
    """Launches the trials of a search, with settings as `conf/hydra/sweeper/optuna.yaml` explains them."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher."""
        from hydra.core.plugins import Plugins

        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search what the overrides of the task and `hydra.sweeper.params` leave open."""
        from graft.cli.launchers import jobs_at_once
        from graft.cli.search.loop import begin_search
        from graft.cli.search.settings import search_settings
        from graft.cli.search.space import read_space

        assert self.config is not None
        assert self.hydra_context is not None
        node: Any = OmegaConf.to_container(self.config.hydra.sweeper, resolve=True)
        settings = search_settings(node)
        space = read_space(self.hydra_context.config_loader, arguments, settings.params)
        folder = Path(self.config.hydra.sweep.dir).absolute()
        OmegaConf.save(self.config, folder / "multirun.yaml")
        at_once = settings.n_jobs or jobs_at_once(self.config.hydra.launcher, settings.n_trials)
        begin_search(folder, settings, space, self.launch_jobs, at_once).run()

    def launch_jobs(self, batch: list[list[str]], first: int) -> None:
        """Compose the jobs here, so that processes of the launcher find them composed, and run them."""
        assert self.launcher is not None
        self.validate_batch_is_legal(batch)
        self.launcher.launch(batch, initial_job_idx=first)
