"""What ties a job of a sweep to its trial: a file in the job's folder, so that any process can report to the study."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.records.files import atomic_write_json, read_json

if TYPE_CHECKING:
    from optuna import Study

TRIAL = "trial.json"


@dataclass(frozen=True)
class TrialReport:
    """Takes the validation metric of each epoch to the study, and says whether the run shall end there.

    Whoever calls it needs the study's storage within reach, not the process that began the trial.
    """

    storage: str
    study: str
    trial_id: int  # the storage's own number of the trial
    number: int  # the trial's within its study
    overrides: list[str]  # that set the trial apart
    metric: str  # that is reported
    pruner: str
    pruner_options: Mapping[str, Any]

    def __call__(self, epoch: int, value: float) -> bool:
        """Report the value after an epoch, counted from 1, unless an earlier start of the run did; True to prune."""
        from optuna.trial import Trial

        study = study_to_report_to(self.storage, self.study, self.pruner, json.dumps(self.pruner_options))
        trial = Trial(study, self.trial_id)
        known = next(one for one in study.get_trials(deepcopy=False) if one.number == self.number)
        if epoch not in known.intermediate_values:
            trial.report(value, epoch)
        return trial.should_prune()


@lru_cache(maxsize=1)
def study_to_report_to(storage: str, name: str, pruner: str, options: str) -> "Study":
    """The study with what ends its trials early; opened once for all epochs. `options` are JSON."""
    import optuna

    from graft.cli.search.study import make_pruner, open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(
        study_name=name, storage=open_storage(storage), pruner=make_pruner(pruner, json.loads(options))
    )


def write_report(folder: Path, report: TrialReport) -> None:
    """Leave the trial's file in the folder of its job."""
    folder.mkdir(exist_ok=True)
    atomic_write_json(folder / TRIAL, asdict(report))


def read_report(folder: Path) -> TrialReport | None:
    """The trial of the job in a folder; None where the job belongs to no search."""
    return TrialReport(**read_json(folder / TRIAL)) if (folder / TRIAL).exists() else None
