"""Searches with a pipeline that trains nothing: trials, pruning, failures, stopping and going on, several processes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import searched
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from searched import KILLED_AFTER, Pipeline

from graft.cli.compose import compose, hydra_application
from graft.cli.main import main
from graft.cli.search.loop import objective
from graft.cli.search.space import read_space
from graft.errors import UserError
from graft.records.record import load_record, run_identity

LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
STRATEGY = "strategy=choice(linear_probe,fine_tune)"
SEARCH = ("-m", "hydra/sweeper=optuna", LR, "strategy=linear_probe", "logger=none")
UNPRUNED = "hydra.sweeper.pruner=none"


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, empty_folder: Path) -> Pipeline:
    fake = Pipeline()
    monkeypatch.setattr("graft.pipeline.run", fake)
    return fake


def sweeps(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("outputs/*/*-sweep/sweep.json"))


def trials(sweep: Path) -> list[FrozenTrial]:
    search = json.loads((sweep / "search.json").read_text())
    return optuna.load_study(study_name=search["study"], storage=search["storage"]).trials


def params(found: list[FrozenTrial]) -> list[dict[str, Any]]:
    return [trial.params for trial in found]


def in_a_process(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(Path(searched.__file__).parent), os.environ.get("PYTHONPATH", "")])
    settings = os.environ | {"PYTHONPATH": paths, "COLUMNS": "120"} | environment
    command = [sys.executable, searched.__file__, *words]
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=300, check=False)


# --- what is searched


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optimizer.lr=tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("optimizer.lr=interval(0.1,0.5)", FloatDistribution(0.1, 0.5)),
        ("trainer.max_epochs=int(interval(2,8))", IntDistribution(2, 8)),
        ("adapter.rank=tag(log,int(interval(1,16)))", IntDistribution(1, 16, log=True)),
        ("trainer.max_epochs=range(2,9,3)", IntDistribution(2, 8, step=3)),
        ("trainer.max_epochs=range(3)", IntDistribution(0, 2)),
        ("optimizer.lr=range(0.25,1.0,0.25)", FloatDistribution(0.25, 0.75, step=0.25)),
        ("strategy=choice(lp_ft,scratch)", CategoricalDistribution(["lp_ft", "scratch"])),
        ("seed=1,2", CategoricalDistribution(["1", "2"])),
        ("strategy=glob(lp*)", CategoricalDistribution(["lp_ft"])),
        ("target.labels_per_class=5,null", CategoricalDistribution(["5", "null"])),
    ],
)
def test_hydras_words_are_optunas_distributions(word: str, expected: Any) -> None:
    with hydra_application() as hydra:
        space = read_space(hydra.config_loader, [word, "name=x"], {})
    assert space.fixed == ["name=x"]
    assert list(space.distributions().values()) == [expected]


def test_what_is_typed_counts_before_a_preset() -> None:
    preset = {"strategy": "choice(lp_ft,scratch)", "optimizer.lr": "interval(0.1,0.2)", "seed": 3}
    with hydra_application() as hydra:
        space = read_space(hydra.config_loader, ["strategy=fine_tune", "optimizer.lr=0.5,0.6"], preset)
    assert space.fixed == ["seed=3", "strategy=fine_tune"]
    assert space.distributions() == {"optimizer.lr": CategoricalDistribution(["0.5", "0.6"])}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["seed=1"], "nothing to search; give a key several values, as in optimizer.lr=interval(1e-4,1e-2)"),
        (["optimizer.lr=tag(log,interval(0,1))"], "tag(log, ...) needs an interval above 0, not from 0"),
        (["optimizer.lr=interval(0.5,0.1)"], "expected an interval from low to high, not from 0.5 to 0.1"),
        (["optimizer.lr=tag(quick,interval(0.1,1))"], "tag(quick, ...) means nothing to a search"),
        (["seed=shuffle(1,2)"], "a search has an order of its own; leave shuffle out"),
        ([LR, "hydra.sweeper.metric=target/test/accuracy"], "a search never looks at the test split"),
        ([LR, "hydra.sweeper.metric=val/acuracy"], "no such metric; did you mean 'val/accuracy'?"),
        ([LR, "hydra.sweeper.metric=val/brier_score"], "is not known after each epoch; add hydra.sweeper.pruner=none"),
        ([LR, "hydra.sweeper.sampler=tpa"], "hydra.sweeper.sampler='tpa'; expected 'tpe' or 'random' or 'grid'"),
        ([LR, "hydra.sweeper.sampler=grid"], "optimizer.lr: an interval has no grid"),
        ([LR, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0; expected at least 1"),
        ([LR, "hydra.sweeper.storage='postgresql://me:hush@host/db'"], "keep it in an environment variable"),
        ([LR, "+hydra.sweeper.pruner_options.warmup=3"], "hydra.sweeper.pruner_options.warmup: median has no such"),
        ([LR, "+hydra.sweeper.trials=3"], "hydra.sweeper.trials: no such key; did you mean 'n_trials'?"),
        (["strategy=choice(lp_ft,scrach)"], "strategy=scrach: no such strategy; did you mean 'scratch'?"),
        (["optimizer.lr=interval(-1.0,1.0)"], "optimizer.lr"),  # both ends are checked as jobs
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(
    words: list[str], error: str, pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "hydra/sweeper=optuna", *words]) == 1
    assert error in capsys.readouterr().err
    assert not list(empty_folder.iterdir())


@pytest.mark.parametrize("word", ["hydra/sweeper=optuna", "hparams_search=strategy_lr_wd"])
def test_a_search_is_no_single_run(word: str, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 1
    assert capsys.readouterr().err == f"graft: {word}: a search runs many jobs; add -m\n"


# --- the search


def test_a_search_ends_with_its_best_trial_as_an_experiment(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SEARCH, UNPRUNED, "hydra.sweeper.n_trials=5", "trainer.max_epochs=7"]) == 0
    printed = capsys.readouterr().out
    [sweep] = sweeps(empty_folder)
    found = trials(sweep)
    assert [trial.state for trial in found] == 5 * [TrialState.COMPLETE]
    assert all(1e-4 <= trial.params["optimizer.lr"] <= 1e-1 for trial in found)
    assert [trial.value for trial in found] == [searched.accuracy(trial.params["optimizer.lr"]) for trial in found]
    best = max(found, key=lambda trial: trial.value or 0.0)
    assert "5 of 5 trials: 5 complete, 0 pruned, 0 failed" in printed
    assert f"best: val/accuracy {best.value:.4f}, optimizer.lr={best.params['optimizer.lr']}" in printed
    assert "importance: optimizer.lr 100 %" in printed
    assert re.search(r"graft experiment=best --config-dir outputs/\S+/conf\n", printed)
    assert json.loads((sweep / "sweep.json").read_text())["status"] == "done"
    with hydra_application(sweep / "conf") as hydra:
        again = compose(hydra.config_loader, ["experiment=best"])
    assert run_identity(again) == load_record(sweep / str(best.number))["id"]


def test_the_best_trial_carries_along_what_presets_and_choices_said(pipeline: Pipeline, empty_folder: Path) -> None:
    words = ["experiment=usps_to_mnist", "target=digits", "target.labels_per_class=3", "optimizer=sgd", "seed=4"]
    words += ["backbone=resnet20", "+strategy.norm_statistics=eval", "strategy@pretrain.strategy=scratch", "logger=csv"]
    assert main([*SEARCH, "adaptation=mcc", *words, "debug=fast", "hydra.sweeper.n_trials=1"]) == 0
    [sweep] = sweeps(empty_folder)  # that the file gives the run's own identity is asserted as it is written
    text = (sweep / "conf" / "experiment" / "best.yaml").read_text()
    assert "override /optimizer: sgd" in text
    assert "experiment" not in text.partition("defaults:")[2]


def test_trials_that_are_behind_are_pruned(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SEARCH, "hydra.sweeper.n_trials=8", "+hydra.sweeper.pruner_options.n_startup_trials=1"]) == 0
    [sweep] = sweeps(empty_folder)
    states = [trial.state for trial in trials(sweep)]
    pruned = [number for number, state in enumerate(states) if state == TrialState.PRUNED]
    assert pruned
    assert states[0] == TrialState.COMPLETE
    record = load_record(sweep / str(pruned[0]))
    assert record["status"] == "pruned"
    assert record["pruned"]["epoch"] == trials(sweep)[pruned[0]].last_step
    printed = capsys.readouterr().out
    assert f"{8 - len(pruned)} complete, {len(pruned)} pruned (after 1 epoch), 0 failed" in printed
    began = len(pipeline.began)
    assert main(["resume", str(sweep)]) == 0
    assert main(["resume", str(sweep / str(pruned[0]))]) == 0
    assert "ended by its search after epoch 1; nothing is left to do" in capsys.readouterr().out
    assert len(pipeline.began) == began
    assert main(["report", str(sweep)]) == 0
    assert f"Pruned: {len(pruned)} run" in capsys.readouterr().out


def test_failed_trials_are_named_and_tried_again_by_resume(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failing = {"fine_tune"}
    assert main(["-m", "hydra/sweeper=optuna", STRATEGY, LR, UNPRUNED, "hydra.sweeper.n_trials=4"]) == 1
    [sweep] = sweeps(empty_folder)
    first = trials(sweep)
    wrong = [trial.number for trial in first if trial.state == TrialState.FAIL]
    assert [trial.number for trial in first if trial.params["strategy"] == "fine_tune"] == wrong
    printed = capsys.readouterr().out
    assert f"{4 - len(wrong)} complete, 0 pruned, {len(wrong)} failed" in printed
    assert "RuntimeError: out of memory" in printed
    pipeline.failing = set()
    pipeline.began = []
    assert main(["resume", str(sweep)]) == 0
    assert [int(folder.name) for folder in pipeline.began] == wrong
    assert params(trials(sweep)[4:]) == [first[number].params for number in wrong]
    assert "4 of 4 trials: 4 complete, 0 pruned, 0 failed" in capsys.readouterr().out


def test_a_grid_is_searched_once_and_no_further(pipeline: Pipeline, empty_folder: Path) -> None:
    words = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.sampler=grid", STRATEGY, "optimizer.lr=0.1,0.01"]
    assert main([*words, UNPRUNED]) == 0
    found = params(trials(sweeps(empty_folder)[0]))
    assert len({tuple(sorted(one.items())) for one in found}) == len(found) == 4


def test_the_seed_decides_what_is_tried(pipeline: Pipeline, empty_folder: Path) -> None:
    words = [*SEARCH, UNPRUNED, "hydra.sweeper.n_trials=2"]
    for seed in (1, 1, 2):
        assert main([*words, f"hydra.sweeper.seed={seed}"]) == 0
    found = {str(params(trials(sweep))) for sweep in sweeps(empty_folder)}
    assert len(sweeps(empty_folder)) == 3
    assert len(found) == 2


# --- stopping and going on


def test_a_killed_search_goes_on_as_if_nothing_had_happened(pipeline: Pipeline, empty_folder: Path) -> None:
    words = [*SEARCH, UNPRUNED, "hydra.sweeper.n_trials=4"]
    killed = in_a_process(empty_folder, *words, **{KILLED_AFTER: "2"})
    assert killed.returncode == -signal.SIGKILL
    [sweep] = sweeps(empty_folder)
    before = trials(sweep)
    assert [trial.state for trial in before][-1] == TrialState.RUNNING
    assert main(words) == 0  # the same command finds it
    assert [folder.name for folder in pipeline.began] == ["2", "3"]
    after = trials(sweep)
    assert params(after[:3]) == params(before)
    assert main([*words, "hydra.sweeper.study_name=never_stopped"]) == 0
    [_, whole] = sweeps(empty_folder)
    assert params(trials(whole)) == params(after)
    assert [trial.value for trial in trials(whole)] == [trial.value for trial in after]


def test_processes_share_the_trials_of_a_study(pipeline: Pipeline, empty_folder: Path) -> None:
    storage = f"hydra.sweeper.storage=sqlite:///{empty_folder}/shared.db"
    words = [*SEARCH, UNPRUNED, storage, "hydra.sweeper.study_name=s", "hydra.sweeper.n_trials=4"]
    killed = in_a_process(empty_folder, *words, **{KILLED_AFTER: "1"})  # leaves a trial that nobody else may take
    assert killed.returncode == -signal.SIGKILL
    [first] = sweeps(empty_folder)
    (first / "sweep.json").rename(first / "elsewhere.json")  # as another machine would see it
    assert main(words) == 0
    assert [folder.name for folder in pipeline.began] == ["0", "1"]
    (first / "elsewhere.json").rename(first / "sweep.json")
    assert main(["resume", str(first)]) == 0
    assert [trial.state for trial in trials(first)] == 4 * [TrialState.COMPLETE]


TINY = ("source.num_samples=200", "source.num_test_samples=100", "pretrain.max_epochs=1", "trainer.max_epochs=2")


@pytest.mark.slow
def test_trials_run_in_processes_of_another_launcher(empty_folder: Path) -> None:
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_trials=4"]
    done = in_a_process(empty_folder, *SEARCH, *parallel, "+hydra.sweeper.pruner_options.n_startup_trials=1", *TINY)
    assert done.returncode == 0, done.stderr
    found = trials(sweeps(empty_folder)[0])
    assert len(found) == 4
    assert all(trial.intermediate_values for trial in found)  # reported by the workers


# --- what is made the best of


def record(**changes: Any) -> dict[str, Any]:
    rules = {"rule": "best_val", "best_val": {"epoch": 2, "score": 0.7}, "last": {"epoch": 3, "score": None}}
    rows = [{"epoch": epoch, "val/accuracy": epoch / 10, "val/loss": 1.0 / epoch} for epoch in (1, 2, 3)]
    return {"selection": rules, "history": rows, "metrics": {"target/test/accuracy": 0.9}} | changes


def test_the_objective_is_validation_under_the_headline_rule() -> None:
    assert objective(record(metrics={"target/val/accuracy": 0.65}), "val/accuracy") == 0.65
    assert objective(record(), "val/accuracy") == 0.2  # validation is on the source: that of the chosen epoch
    assert objective(record(), "selection/score") == 0.7
    with pytest.raises(UserError, match="is there no validation split"):
        objective(record(history=[]), "val/accuracy")


def test_environment_variables_stand_in_a_storage(
    pipeline: Pipeline, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIES", str(empty_folder))
    storage = "hydra.sweeper.storage='sqlite:////$STUDIES/s.db'"
    assert main([*SEARCH, UNPRUNED, storage, "hydra.sweeper.n_trials=1"]) == 0
    [sweep] = sweeps(empty_folder)
    assert (empty_folder / "s.db").exists()
    assert not any(str(empty_folder / "s.db") in path.read_text() for path in sweep.rglob("*.json"))
