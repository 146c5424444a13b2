"""The settings of a search, `hydra.sweeper` under `hydra/sweeper=optuna`, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints
from urllib.parse import urlsplit

from graft.build.values import describe, fits
from graft.errors import UserError, did_you_mean

SWEEPER = "hydra_plugins.graft_plugins.optuna_sweeper.OptunaSweeper"
SEARCH = "search.json"  # in the sweep's folder: where its study is, and what all its trials have in common
SQLITE = "sqlite:///"
SCORE = "selection/score"
BY_EPOCH = ("val/accuracy", "val/loss")  # metrics that are known after every epoch
METRICS = (*BY_EPOCH, "val/calibration_error", "val/brier_score", SCORE)
MAXIMISED = ("val/accuracy", SCORE)

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class SearchSettings:
    """What `conf/hydra/sweeper/optuna.yaml` explains."""

    n_trials: int
    n_jobs: int | None
    params: dict[str, Any]
    metric: str
    direction: Direction | None
    storage: str | None
    study_name: str | None
    sampler: Literal["tpe", "random", "grid"]
    sampler_options: dict[str, Any]
    seed: int
    pruner: Literal["median", "hyperband", "none"]
    pruner_options: dict[str, Any]

    @property
    def aim(self) -> Direction:
        """The direction, the metric's own unless it was given."""
        return self.direction or ("maximize" if self.metric in MAXIMISED else "minimize")

    def storage_url(self, folder: Path) -> str:
        """The database of a search in a folder; a file of SQLite by its absolute path."""
        if self.storage is None:
            return f"{SQLITE}{folder.absolute() / 'study.db'}"
        path = self.storage.removeprefix(SQLITE)
        return self.storage if path == self.storage else f"{SQLITE}{Path(path).expanduser().absolute()}"

    def study_in(self, folder: Path) -> str:
        """The name of the study of a search in a folder."""
        return self.study_name or folder.name


def search_settings(node: Mapping[str, Any]) -> SearchSettings:
    """The settings in a plain node.

    Raises:
        UserError: with a line for each that cannot be used.
    """
    given = {name: value for name, value in node.items() if name != "_target_"}
    hints = get_type_hints(SearchSettings)
    known = [field.name for field in fields(SearchSettings)]
    errors = [f"hydra.sweeper.{name}: no such key; {did_you_mean(name, known)}" for name in given if name not in known]
    errors += [f"hydra.sweeper.{name}: is missing" for name in known if name not in given]
    errors += [
        f"hydra.sweeper.{name}={value!r}; expected {describe(hints[name])}"
        for name, value in given.items()
        if name in known and not fits(value, hints[name])
    ]
    settings = SearchSettings(**given) if not errors else None
    if settings is None or (errors := unusable(settings)):
        raise UserError("\n".join(errors))
    return settings


def unusable(settings: SearchSettings) -> list[str]:
    """What is wrong with settings whose types are right."""
    errors = [
        f"hydra.sweeper.{name}={number}; expected at least 1"
        for name in ("n_trials", "n_jobs")
        if (number := getattr(settings, name)) is not None and number < 1
    ]
    password = urlsplit(settings.storage or "").password or "$"
    if not password.startswith("$"):
        errors.append(
            "hydra.sweeper.storage: its password would be written to the sweep's folder; keep it in an environment "
            "variable and write that one's name in its place: hydra.sweeper.storage='postgresql://me:$PASSWORD@host/db'"
        )
    metric = settings.metric
    if "test" in metric.split("/"):
        errors.append(f"hydra.sweeper.metric={metric}: a search never looks at the test split; val/accuracy is as near")
    elif metric not in METRICS:
        errors.append(f"hydra.sweeper.metric={metric}: no such metric; {did_you_mean(metric, METRICS)}")
    elif settings.pruner != "none" and metric not in BY_EPOCH:
        errors.append(
            f"hydra.sweeper.metric={metric}: is not known after each epoch; add hydra.sweeper.pruner=none, or choose "
            + " or ".join(BY_EPOCH)
        )
    return errors
