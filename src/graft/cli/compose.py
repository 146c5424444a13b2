"""From overrides to plain configurations, with errors in the user's words."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from graft.cli.launchers import check_launching
from graft.cli.loader import RememberingLoader
from graft.cli.overrides import diagnose, explain_text, first_words, groups, requote, speaks_of
from graft.cli.search.settings import SWEEPER
from graft.cli.source import PRIMARY, search_path
from graft.errors import UserError, did_you_mean

# Groups of which several may be chosen, or none: after=[]
SEVERAL = ("callbacks", "logger", "after", "regulariser", "adaptation")


@contextmanager
def hydra_application(config_dir: Path | None = None) -> Iterator[Hydra]:
    """Hydra with graft's configuration, for the time of one command.

    Raises:
        UserError: `config_dir` does not exist.
    """
    GlobalHydra.instance().clear()
    version.setbase("1.3")  # among others: a job does not change the working directory
    register_resolvers()
    try:
        hydra = Hydra("graft", RememberingLoader(search_path(config_dir)))
        GlobalHydra.instance().initialize(hydra)
        yield hydra
    finally:
        GlobalHydra.instance().clear()


def register_resolvers() -> None:
    """Make the functions known that configurations call, also in a process that a launcher started."""
    OmegaConf.register_new_resolver("path_name", path_name, replace=True)


def path_name(path: Any, domain: Any = None) -> str:
    """What data at a path are called: the domain within it, or the last part of the path.

    >>> path_name("data/usps.npz"), path_name("~/flowers"), path_name("office", "webcam")
    ('usps', 'flowers', 'webcam')
    """
    if domain is None:
        return Path(str(path)).expanduser().name.removesuffix(".npz")
    return str(domain) if isinstance(domain, str) else "+".join(map(str, domain))


@dataclass(frozen=True)
class Sweep:
    """A composed `--multirun`."""

    overrides: list[str]
    jobs: list[list[str]] | None  # the overrides of each job; None where the sweeper finds them while it runs
    checked: list[list[str]]  # those of each job that can be checked beforehand: all, or some that a search may come to
    configs: list[dict[str, Any]]  # of these


def compose(loader: ConfigLoader, overrides: Sequence[str]) -> dict[str, Any]:
    """The plain, resolved configuration of one run.

    Raises:
        UserError: with a line for each override that cannot be used.
    """
    refuse([f"{text}: a search runs many jobs; add -m" for text in overrides if chooses_search(text)])
    return compose_job(loader, requote(loader, overrides))


def compose_job(loader: ConfigLoader, overrides: list[str]) -> dict[str, Any]:
    """The configuration of one job of a sweep, as `compose`; the sweep's own settings may be among its overrides."""
    return job_config(loader, overrides, lambda: task_of(_load(loader, overrides, RunMode.RUN)))


def chooses_search(override: str) -> bool:
    """Whether an override makes a sweep a search.

    >>> [chooses_search(text) for text in ("hparams_search=strategy_lr_wd", "hydra/sweeper=optuna", "seed=1")]
    [True, True, False]
    """
    key, _, value = override.partition("=")
    return (key, value) == ("hydra/sweeper", "optuna") or (key == "hparams_search" and value != "null")


def task_of(composed: DictConfig) -> DictConfig:
    """A configuration that nobody else looks at, which loses Hydra's own part; a copy without it costs as much again
    as composing.
    """
    with read_write(composed), open_dict(composed):
        del composed["hydra"]
    return composed


def job_config(loader: ConfigLoader, overrides: Sequence[str], composed: Callable[[], DictConfig]) -> dict[str, Any]:
    """The plain, resolved configuration of the job with these overrides, from what was composed unless it is known.

    Raises:
        UserError: as `plain_config`.
    """
    if isinstance(loader, RememberingLoader):
        return loader.plain(overrides, lambda: plain_config(composed(), loader))
    return plain_config(composed(), loader)


def compose_sweep(loader: ConfigLoader, overrides: Sequence[str]) -> Sweep:
    """The plain configurations of all jobs of a sweep.

    Raises:
        UserError: with a line for each override that cannot be used by one of the jobs.
    """
    overrides = requote(loader, overrides)
    refuse([line for text in overrides if (line := explain_text(text))])
    refuse([f"{text}: graft names the folders itself" for text in overrides if text.startswith("hydra.sweep.")])
    base = _load(loader, in_common(loader, overrides), RunMode.MULTIRUN)
    refuse(check_launching(base.hydra.runtime.choices, base.hydra.launcher))
    if base.hydra.sweeper._target_.endswith(".BasicSweeper"):
        preset = (f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items())
        overrides = requote(loader, [*preset, *overrides])
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    own = [item for item in parsed if not item.is_hydra_override()]
    if base.hydra.sweeper._target_ == SWEEPER:
        from graft.cli.search.check import corner_jobs

        corners = corner_jobs(loader, [str(item.input_line) for item in own], base.hydra.sweeper)
        return Sweep(overrides, None, corners, job_configs(loader, corners))
    if not base.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return Sweep(overrides, None, [[]], [plain_config(base, loader)])
    [jobs] = BasicSweeper.split_arguments(own, None)
    return Sweep(overrides, jobs, jobs, job_configs(loader, jobs))


def job_configs(loader: ConfigLoader, jobs: Sequence[list[str]]) -> list[dict[str, Any]]:
    """The plain configuration of each job.

    Raises:
        UserError: with a line for each override that cannot be used by one of them.
    """
    configs: list[dict[str, Any]] = []
    errors: list[list[str]] = []
    for job in jobs:
        try:
            configs.append(compose_job(loader, requote(loader, job)))
            errors.append([])
        except UserError as error:
            errors.append(str(error).splitlines())
    refuse_jobs(errors, jobs)
    return configs


def in_common(loader: ConfigLoader, overrides: Sequence[str]) -> list[str]:
    """The overrides that choose groups or set up Hydra, without those of values.

    Hydra composes what all jobs of a sweep have in common before it knows any of them; there it would not find a key
    that only a swept choice brings along, as in `-m target=cifar10,stl10 target.download=true`.
    """
    known = groups(loader)
    parsed = zip(overrides, OverridesParser.create(loader).parse_overrides(list(overrides)), strict=True)
    return [text for text, item in parsed if item.is_hydra_override() or item.key_or_group in known]


def refuse(errors: Sequence[str]) -> None:
    """Raise all errors as one.

    Raises:
        UserError: where there are errors.
    """
    if errors:
        raise UserError("\n".join(dict.fromkeys(errors)))


def refuse_jobs(errors: Sequence[Sequence[str]], jobs: Sequence[Sequence[str]]) -> None:
    """Raise the errors of all jobs as one, each error once; what only some jobs suffer from names the first of them.

    Raises:
        UserError: where there are errors.
    """
    lines = []
    for line in dict.fromkeys(line for lines in errors for line in lines):
        suffering = [job for job, its_errors in zip(jobs, errors, strict=True) if line in its_errors]
        lines.append(
            line if len(suffering) == len(jobs) else f"{line} (with {' '.join(own_overrides(suffering[0], jobs))})"
        )
    refuse(lines)


def own_overrides(job: Sequence[str], jobs: Sequence[Sequence[str]]) -> list[str]:
    """The overrides that set a job apart from the others of its sweep."""
    common = common_overrides(jobs)
    return [override for override in job if override not in common]


def common_overrides(jobs: Sequence[Sequence[str]]) -> set[str]:
    """The overrides that all jobs of a sweep share; none of a single job's, which nothing sets apart."""
    return set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()


def _load(loader: ConfigLoader, overrides: list[str], mode: RunMode) -> DictConfig:
    try:
        return loader.load_configuration(PRIMARY, list(overrides), mode)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a group set to null
        wrong = diagnose(loader, overrides, mode)
        lines = [*wrong.values(), *_wrong_beside(loader, overrides, wrong)] if wrong else [first_words(error)]
        raise UserError("\n".join(lines)) from error


def _wrong_beside(loader: ConfigLoader, overrides: list[str], wrong: Mapping[str, str]) -> list[str]:
    """Errors in what is left when the overrides `wrong` are taken out, as far as they speak of what was typed."""
    others = [text for text in overrides if text not in wrong]
    if not others:
        return []
    from graft.build.validation import validate

    try:
        config = plain_config(loader.load_configuration(PRIMARY, others, RunMode.RUN), loader)
    except (HydraException, OmegaConfBaseException, UserError, ValueError):
        return []
    return [error for error in validate(config) if any(speaks_of(error, text) for text in others)]


def plain_config(composed: DictConfig, loader: ConfigLoader) -> dict[str, Any]:
    """The configuration as plain values, resolved, with the baselines' strategies in place of their names.

    Values that the user still has to give stay `???`; those made of them are `???` and the key to be given.

    Raises:
        UserError: an interpolation that leads nowhere, or a baseline that is not a strategy.
    """
    if "hydra" in composed:
        composed = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    plain = _resolved(composed)
    plain |= {group: {} for group in SEVERAL if group not in plain}
    if plain.get("baselines") is None:
        plain["baselines"] = [] if plain["adaptation"] else ["scratch"]
    if isinstance(plain.get("baselines"), str):
        raise UserError(f"baselines={plain['baselines']}; expected a list: baselines=[{plain['baselines']}]")
    if isinstance(plain.get("baselines"), list):
        plain["baselines"] = {str(name): _strategy(loader, str(name)) for name in plain["baselines"]}
    return plain


def _resolved(composed: DictConfig) -> dict[str, Any]:
    register_resolvers()
    own = composed
    while True:
        try:
            config = OmegaConf.to_container(own, resolve=True)
        except InterpolationToMissingValueError as error:
            if own is composed:
                own = deepcopy(composed)
            origin = str(error).partition("Missing mandatory value: ")[2].split()[0]
            OmegaConf.update(own, str(error.full_key), f"???{origin}")  # as missing as what it refers to
            continue
        except OmegaConfBaseException as error:
            raise UserError(first_words(error)) from error
        assert isinstance(config, dict)
        return {str(key): value for key, value in config.items()}


def _strategy(loader: ConfigLoader, name: str) -> dict[str, Any]:
    options = loader.get_group_options("strategy")
    if name not in options:
        raise UserError(f"baselines: no strategy is called {name!r}; {did_you_mean(name, options)}")
    return group_config(loader, "strategy", name)


def group_config(loader: ConfigLoader, group: str, name: str, resolve: bool = True) -> dict[str, Any]:
    """One choice of a group by itself, as plain values."""
    composed = loader.load_configuration(f"{group}/{name}", [], RunMode.RUN)
    config = OmegaConf.to_container(composed[group], resolve=resolve)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}
