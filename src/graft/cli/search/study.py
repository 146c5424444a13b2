"""The study of a search: where it is kept, what suggests its trials, and what ends them early."""

import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from graft.cli.search.settings import SQLITE, Direction, SearchSettings
from graft.errors import UserError, did_you_mean
from graft.seeds import stable_seed

WAIT_FOR_SQLITE = 60.0  # seconds, while other processes write
LARGEST_SEED = 2**32  # that NumPy's generators take
SAMPLERS: dict[str, type[BaseSampler]] = {"tpe": TPESampler, "random": RandomSampler, "grid": GridSampler}
PRUNERS: dict[str, type[BasePruner]] = {"median": MedianPruner, "hyperband": HyperbandPruner, "none": NopPruner}
OURS = ("seed", "search_space")  # arguments that other settings give

# Of a trial: the sweep that it belongs to, the number of its job there and that job's folder; the failed trial that it
# tries again; and that it came when there were enough
SWEEP, JOB, FOLDER, RETRIES, SURPLUS = "sweep", "job", "folder", "retries", "surplus"


class SeededByTrial(BaseSampler):
    """A sampler made anew for each trial, from a seed of the trial's own.

    What a trial tries thus depends on its number and on the results so far, not on how often the search was stopped.
    It also leaves out what Optuna's grid does after its last trial, which stops a loop that is not ours.
    """

    def __init__(self, make: Callable[[int], BaseSampler]) -> None:
        self._make = make
        self._own: BaseSampler = make(0)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the trial's sampler."""
        self._own = self._make(trial.number)
        self._own.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the trial's sampler."""
        return self._own.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the trial's sampler."""
        return self._own.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the trial's sampler."""
        return self._own.sample_independent(study, trial, param_name, param_distribution)


def make_sampler(settings: SearchSettings, distributions: Mapping[str, BaseDistribution]) -> BaseSampler:
    """What suggests the values of trials.

    Raises:
        UserError: an option that the sampler does not have, or a grid over an interval.
    """
    kind, options = SAMPLERS[settings.sampler], settings.sampler_options
    check_options("sampler", settings.sampler, kind, options)
    if settings.sampler == "grid":
        grid = {name: grid_values(name, drawn_from) for name, drawn_from in distributions.items()}
        return SeededByTrial(lambda _: GridSampler(grid, seed=settings.seed, **options))
    return SeededByTrial(lambda number: seeded(kind, stable_seed(settings.seed, number) % LARGEST_SEED, options))


def seeded(kind: type[BaseSampler], seed: int, options: Mapping[str, Any]) -> BaseSampler:
    """A sampler with a seed and further arguments.

    Raises:
        UserError: a value that the sampler refuses.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the user chose the option
            return kind(seed=seed, **options)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise UserError(f"hydra.sweeper.sampler_options: {error}") from error


def make_pruner(name: str, options: Mapping[str, Any]) -> BasePruner:
    """What ends trials early.

    Raises:
        UserError: an option that the pruner does not have, or refuses.
    """
    check_options("pruner", name, PRUNERS[name], options)
    try:
        return PRUNERS[name](**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"hydra.sweeper.pruner_options: {error}") from error


def check_options(what: str, name: str, kind: type, options: Mapping[str, Any]) -> None:
    """Refuse options that a sampler or pruner does not have.

    Raises:
        UserError: with a line for each.
    """
    known = [key for key in inspect.signature(kind).parameters if key not in OURS]
    wrong = [key for key in options if key not in known]
    if wrong:
        lines = (f"{key}: {name} has no such option; " + did_you_mean(key, known or ["none"]) for key in wrong)
        raise UserError("\n".join(f"hydra.sweeper.{what}_options.{line}" for line in lines))


def grid_values(name: str, drawn_from: BaseDistribution) -> list[Any]:
    """All values that a grid takes from choices or a range.

    Raises:
        UserError: it is an interval.
    """
    if isinstance(drawn_from, CategoricalDistribution):
        return list(drawn_from.choices)
    assert isinstance(drawn_from, IntDistribution | FloatDistribution)
    if drawn_from.step is None or drawn_from.log:
        raise UserError(f"{name}: an interval has no grid; give choices or a range, or another hydra.sweeper.sampler")
    count = round((drawn_from.high - drawn_from.low) / drawn_from.step) + 1
    return [drawn_from.low + index * drawn_from.step for index in range(count)]


def most_trials(settings: SearchSettings, distributions: Mapping[str, BaseDistribution]) -> int:
    """How many trials there are in all: those asked for, or the whole grid where that has fewer."""
    if settings.sampler != "grid":
        return settings.n_trials
    size = 1
    for name, drawn_from in distributions.items():
        size *= len(grid_values(name, drawn_from))
    return min(settings.n_trials, size)


def open_study(storage: str, name: str, direction: Direction, sampler: BaseSampler | None = None) -> optuna.Study:
    """The study of that name, which is made where there is none.

    Raises:
        UserError: the storage cannot be used, or its study goes the other way.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=open_storage(storage),
            sampler=sampler,
            pruner=NopPruner(),
            study_name=name,
            direction=direction,
            load_if_exists=True,
        )
    except Exception as error:  # of whichever database it is
        raise UserError(f"hydra.sweeper.storage={storage}: cannot be used ({str(error).splitlines()[0]})") from error
    if study.direction.name.lower() != direction:
        raise UserError(f"study {name!r} in {storage} is to {study.direction.name.lower()}, not to {direction}")
    return study


def open_storage(url: str) -> BaseStorage:
    """A database, with environment variables in the place of their `$NAMES`.

    Writers to one file of SQLite wait for each other.
    """
    waiting = {"connect_args": {"timeout": WAIT_FOR_SQLITE}} if url.startswith(SQLITE) else {}
    return RDBStorage(os.path.expandvars(url), engine_kwargs=waiting)


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count: those that a search began and no other one tries again, from the first on."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get(RETRIES) for trial in trials}
    return [
        trial
        for trial in trials
        if SWEEP in trial.user_attrs and SURPLUS not in trial.user_attrs and trial.number not in again
    ]


def in_state(trials: list[FrozenTrial], *states: TrialState) -> list[FrozenTrial]:
    """The trials in one of these states."""
    return [trial for trial in trials if trial.state in states]
