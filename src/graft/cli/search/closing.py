"""The end of a search: its table, and its best configuration as an experiment."""

import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from graft.cli.search.best import write_best
from graft.cli.search.settings import SEARCH
from graft.cli.search.study import FOLDER, SWEEP, open_study, trials_of
from graft.records.files import read_json
from graft.records.record import RECORD, load_record, natural_order
from graft.reports.console import make_console
from graft.reports.export import write_results_csv
from graft.reports.notes import shown, unfinished
from graft.reports.search import SearchResult, Trial, print_search
from graft.reports.terminal import print_note

FEWEST_FOR_IMPORTANCE = 5  # complete trials, below which it would be made up
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


def close(folder: Path, config_dir: str | None) -> bool:
    """Print and write what came of the search in a sweep's folder; True where one of its own jobs has no good end.

    `config_dir` are the user's own groups, if there are any.
    """
    search, console = read_json(folder / SEARCH), make_console()
    study = open_study(search["storage"], search["study"], search["direction"])
    result = search_result(study, search)
    paths = sorted(folder.glob(f"*/{RECORD}"), key=natural_order)
    records = [(path.parent, load_record(path)) for path in paths]
    if records:
        write_results_csv(folder, records)
    print_search(result, console)
    for status, text in unfinished(records):
        print_note(status, text, "bold red", console)
    if result.best:
        console.print(write_best(folder, config_dir, search, result), markup=False, soft_wrap=True)
    console.print(str(folder), style="dim", soft_wrap=True)
    own = [trial for trial in trials_of(study) if trial.user_attrs[SWEEP] == search["sweep"]]
    bad = sum(STATES[trial.state] not in ("complete", "pruned") for trial in own)
    if bad:
        console.print(f"graft resume {folder} runs the {bad} of {len(own)} that are not done", soft_wrap=True)
    return bad > 0


def search_result(study: optuna.Study, search: dict[str, Any]) -> SearchResult:
    """The study in plain values."""
    trials = trials_of(study)
    return SearchResult(
        metric=search["metric"],
        maximises=search["direction"] == "maximize",
        wanted=search["trials"],
        trials=[plain_trial(trial) for trial in trials],
        importances=importances(study),
    )


def plain_trial(trial: FrozenTrial) -> Trial:
    """A trial of Optuna's in plain values."""
    value = trial.value if trial.values else None
    return Trial(
        trial.number,
        str(shown(Path(trial.user_attrs[FOLDER]))),
        STATES[trial.state],
        trial.params,
        value,
        trial.last_step,
    )


def importances(study: optuna.Study) -> dict[str, float]:
    """The share of each searched key in the metric's variance, by Optuna's default way; empty where it has none."""
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state is TrialState.COMPLETE]
    if len(complete) < FEWEST_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return optuna.importance.get_param_importances(study)
    except (RuntimeError, ValueError):
        return {}
