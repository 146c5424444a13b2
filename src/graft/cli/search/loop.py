"""The loop of a search: trials are asked for, launched as jobs of the sweep, and told what came of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from graft.cli.search.settings import SCORE, SEARCH, SearchSettings
from graft.cli.search.space import Space, own_overrides
from graft.cli.search.study import (
    FOLDER,
    JOB,
    RETRIES,
    SURPLUS,
    SWEEP,
    in_state,
    make_pruner,
    make_sampler,
    most_trials,
    open_study,
    trials_of,
)
from graft.cli.search.trials import TrialReport, write_report
from graft.cli.states import asked_to_stop
from graft.errors import UserError
from graft.records.files import atomic_write_json, read_json
from graft.records.record import RECORD, load_record
from graft.reports.notes import reason
from graft.reports.search import figure

Launch = Callable[[list[list[str]], int], object]  # takes the overrides of each job, and the first one's number


@dataclass(frozen=True)
class Search:
    """The part of a study that one process works on, in one sweep's folder."""

    study: optuna.Study
    sweep: str  # sets its trials apart from those of other processes
    settings: SearchSettings
    space: Space
    distributions: dict[str, BaseDistribution]
    folder: Path
    launch_jobs: Launch
    at_once: int  # trials that are launched together

    def run(self) -> None:
        """Finish what an earlier start left, then go on until there are trials enough."""
        self.try_again()
        self.launch(in_state(self.own(), TrialState.RUNNING))
        while asked_to_stop(self.folder) is None and (batch := self.next_batch()):
            self.launch(batch)

    def own(self) -> list[FrozenTrial]:
        """The study's trials that are jobs of this sweep."""
        return [trial for trial in trials_of(self.study) if trial.user_attrs[SWEEP] == self.sweep]

    def try_again(self) -> None:
        """Begin failed trials of an earlier start anew, each as another trial in the same job."""
        for trial in in_state(self.own(), TrialState.FAIL):
            attributes = trial.user_attrs | {RETRIES: trial.number}
            again = create_trial(
                state=TrialState.RUNNING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs=attributes,
            )
            self.study.add_trial(again)

    def next_batch(self) -> list[FrozenTrial]:
        """Trials that nobody has begun yet, with values to try; none where there are enough."""
        wanted = most_trials(self.settings, self.distributions)
        batch = []
        for _ in range(min(self.at_once, wanted - len(trials_of(self.study)))):
            job = 1 + max((trial.user_attrs[JOB] for trial in self.own()), default=-1)
            number = self.study.ask(self.distributions).number
            trial = self.study.trials[number]
            self.mark(trial, {JOB: job, FOLDER: str(self.folder / str(job)), SWEEP: self.sweep})
            before = [other for other in trials_of(self.study) if other.number < number]
            if len(before) >= wanted:  # another process was faster
                self.mark(trial, {SURPLUS: True})
                self.study.tell(number, state=TrialState.FAIL)
            else:
                batch.append(self.study.trials[number])
        return batch

    def mark(self, trial: FrozenTrial, attributes: dict[str, Any]) -> None:
        """Write something about a trial into the study."""
        handle = optuna.trial.Trial(self.study, trial._trial_id)
        for name, value in attributes.items():
            handle.set_user_attr(name, value)

    def launch(self, trials: Sequence[FrozenTrial]) -> None:
        """Run the trials' jobs, and tell the study what came of them."""
        for trial in trials:
            write_report(self.folder / str(trial.user_attrs[JOB]), self.report(trial))
        for jobs in with_consecutive_jobs(trials):
            overrides = [self.space.overrides(trial.params) for trial in jobs]
            self.launch_jobs(overrides, jobs[0].user_attrs[JOB])
            for trial in jobs:
                self.tell(trial)

    def report(self, trial: FrozenTrial) -> TrialReport:
        """What the trial's job reports its epochs with."""
        settings = self.settings
        return TrialReport(
            storage=settings.storage_url(self.folder),
            study=self.study.study_name,
            trial_id=trial._trial_id,
            number=trial.number,
            overrides=own_overrides(trial.params),
            metric=settings.metric,
            pruner=settings.pruner,
            pruner_options=settings.pruner_options,
        )

    def tell(self, trial: FrozenTrial) -> None:
        """Tell the study how the trial's run ended; nothing where another process is still at it."""
        folder = self.folder / str(trial.user_attrs[JOB])
        begun = (folder / RECORD).exists()
        record = load_record(folder) if begun else {"status": "failed"}
        if record["status"] == "running" or (not begun and asked_to_stop(self.folder) is not None):
            return
        if record["status"] == "pruned":
            self.say(trial, reason(record))
            self.study.tell(trial.number, state=TrialState.PRUNED)
            return
        value = objective(record, self.settings.metric) if record["status"] == "done" else None
        self.say(trial, f"{self.settings.metric} {figure(value)}" if value is not None else "failed")
        if value is None:
            self.study.tell(trial.number, state=TrialState.FAIL)
        else:
            self.study.tell(trial.number, value)

    def say(self, trial: FrozenTrial, what: str) -> None:
        """A line for a trial that has ended."""
        print(f"trial {trial.number}: {what}, {' '.join(own_overrides(trial.params))}", flush=True)


def with_consecutive_jobs(trials: Sequence[FrozenTrial]) -> Iterator[list[FrozenTrial]]:
    """The trials in groups whose jobs have numbers that follow each other, as launchers want them."""
    ordered = sorted(trials, key=lambda trial: trial.user_attrs[JOB])
    for _, group in groupby(enumerate(ordered), key=lambda item: item[1].user_attrs[JOB] - item[0]):
        yield [trial for _, trial in group]


def objective(record: dict[str, Any], metric: str) -> float | None:
    """What a search makes the best of: the metric of a finished run under its headline selection rule.

    On the target's validation split; where it has none, as under adaptation without labels, what the epoch that the
    rule chose came to on the source's. None where it is not a finite number.

    Raises:
        UserError: the run has no such figure.
    """
    chosen = record["selection"][record["selection"]["rule"]]
    rows = [row for row in record["history"] if row["epoch"] == chosen["epoch"]]
    figures = {SCORE: chosen["score"]} if metric == SCORE else {name: row[name] for row in rows for name in row}
    figures |= {name.removeprefix("target/"): value for name, value in record["metrics"].items()}
    if metric not in figures:
        raise UserError(f"hydra.sweeper.metric={metric}: the run has none; is there no validation split?")
    value: float | None = figures[metric]
    return value


def begin_search(folder: Path, settings: SearchSettings, space: Space, launch_jobs: Launch, at_once: int) -> Search:
    """The search of a sweep's folder, new or begun before.

    Raises:
        UserError: a setting that Optuna does not have, or a storage that cannot be used.
    """
    distributions = space.distributions()
    sampler = make_sampler(settings, distributions)
    make_pruner(settings.pruner, settings.pruner_options)
    storage, name = settings.storage_url(folder), settings.study_in(folder)
    study = open_study(storage, name, settings.aim, sampler)
    begun_before = (folder / SEARCH).exists()
    sweep = read_json(folder / SEARCH)["sweep"] if begun_before else uuid4().hex
    description = {
        "sweep": sweep,
        "storage": storage,
        "study": name,
        "direction": settings.aim,
        "metric": settings.metric,
        "trials": most_trials(settings, distributions),
        "fixed": space.fixed,
    }
    atomic_write_json(folder / SEARCH, description)
    return Search(study, sweep, settings, space, distributions, folder, launch_jobs, at_once)
