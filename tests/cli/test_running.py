"""Runs and sweeps with a pipeline that trains nothing: folders, records, failures, resuming."""

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from records_by_hand import done

from graft.cli.folders import locked
from graft.cli.jobs import interrupts
from graft.cli.main import main
from graft.cli.states import state_of
from graft.errors import UserError
from graft.experiment import Experiment
from graft.records.record import load_record, run_identity, start_record, write_record


class Pipeline:
    """Leaves records as the real one would; fails, or is interrupted, where it is told to."""

    def __init__(self) -> None:
        self.seeds: list[int] = []  # of the runs asked for
        self.failing: dict[int, BaseException] = {}  # seed -> what happens
        self.times: int | None = None  # how often, None: always
        self.signals: dict[int, int] = {}  # seed -> how many Ctrl-C there are meanwhile
        self.sigterm: set[int] = set()  # seeds in whose runs there is a SIGTERM
        self.before_record = False
        self.variable = ""  # of the environment
        self.seen: list[str | None] = []  # its value in each run

    def __call__(self, experiment: Experiment, folder: Path, report: None = None) -> dict[str, Any]:
        self.seeds.append(experiment.seed)
        self.seen.append(os.environ.get(self.variable))
        error = self.failing.get(experiment.seed)
        if error is not None and self.times is not None and self.seeds.count(experiment.seed) > self.times:
            error = None
        if error is not None and self.before_record:
            raise error
        if not (folder / "record.json").exists():
            write_record(folder, start_record(experiment.name, experiment.seed, experiment.config))
        assert load_record(folder)["status"] == "running"
        if error is not None:
            raise error
        for _ in range(self.signals.get(experiment.seed, 0)):
            signal.raise_signal(signal.SIGINT)
        if experiment.seed in self.sigterm:
            signal.raise_signal(signal.SIGTERM)
        record = done(0.9, seed=experiment.seed) | {"config": experiment.config, "id": run_identity(experiment.config)}
        record = load_record(folder) | record
        write_record(folder, record)
        return record


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, empty_folder: Path) -> Pipeline:
    fake = Pipeline()
    monkeypatch.setattr("graft.pipeline.run", fake)
    return fake


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("outputs/*/*/record.json"))


def test_a_run_has_a_folder_of_its_own(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 0
    assert main([]) == 0
    first, second = runs(empty_folder)
    assert first.parent.name == "glyphs_to_digits"
    assert first.name.rpartition("-")[2] == load_record(first)["id"]
    assert (empty_folder / "outputs" / "latest").resolve() == second
    assert "gain" in capsys.readouterr().out


def test_an_experiment_may_have_a_name(pipeline: Pipeline, empty_folder: Path) -> None:
    assert main(["name=first try"]) == 0
    assert runs(empty_folder)[0].parent.name == "first try"


def test_a_run_that_fails_says_so(pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.failing[0] = RuntimeError("out of memory")
    assert main([]) == 1
    assert capsys.readouterr().err.splitlines()[0] == "graft: RuntimeError: out of memory"
    record = load_record(runs(empty_folder)[0])
    assert record["status"] == "failed"
    assert record["error"].startswith("Traceback")


def test_a_run_that_never_began_leaves_nothing(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["seed=1"]) == 0
    latest = (empty_folder / "outputs" / "latest").resolve()
    pipeline.failing[0], pipeline.before_record = UserError("target.path=/nowhere: no such folder"), True
    assert main(["name=other"]) == 1
    assert capsys.readouterr().err == "graft: target.path=/nowhere: no such folder\n"
    assert not (empty_folder / "outputs" / "other").exists()
    assert (empty_folder / "outputs" / "latest").resolve() == latest


def test_the_same_command_goes_on_with_an_interrupted_run(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failing[0] = KeyboardInterrupt()
    assert main([]) == 130
    [folder] = runs(empty_folder)
    assert load_record(folder)["status"] == "running"
    del pipeline.failing[0]
    assert main(["seed=1"]) == 0
    assert len(runs(empty_folder)) == 2
    assert main([]) == 0
    assert len(runs(empty_folder)) == 2
    assert load_record(folder)["status"] == "done"
    assert f"continuing the interrupted run in {Path(*folder.parts[-3:])}" in capsys.readouterr().out


def test_lightnings_exit_on_an_interrupt_is_an_interrupt(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failing[0] = SystemExit(1)
    assert main([]) == 130
    [folder] = runs(empty_folder)
    assert load_record(folder)["status"] == "running"
    assert f"graft resume {folder.relative_to(empty_folder)}" in capsys.readouterr().err


def test_sigterm_has_an_exit_code_of_its_own(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.sigterm = {0}
    assert main([]) == 75
    [folder] = runs(empty_folder)
    assert load_record(folder)["status"] == "running"
    where = folder.relative_to(empty_folder)
    expected = f"graft: asked to end by SIGTERM; the same command goes on from there, or: graft resume {where}\n"
    assert capsys.readouterr().err == expected
    pipeline.sigterm.clear()
    assert main(["resume", str(folder)]) == 0
    assert load_record(folder)["status"] == "done"


def test_sigterm_stops_a_sweep_which_goes_on(pipeline: Pipeline, empty_folder: Path) -> None:
    pipeline.sigterm = {1}
    assert main(["-m", "seed=0,1,2"]) == 75
    sweep = sweep_folder(empty_folder)
    assert statuses(sweep) == {"0": "done", "1": "running"}
    pipeline.sigterm.clear()
    assert main(["resume", str(sweep)]) == 0
    assert pipeline.seeds == [0, 1, 1, 2]
    assert set(statuses(sweep).values()) == {"done"}


def test_what_cannot_be_written_is_said_in_two_lines(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failing[0] = OSError(errno.ENOSPC, "No space left on device", "a/last.ckpt")
    assert main([]) == 1
    [folder] = runs(empty_folder)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "graft: a/last.ckpt: No space left on device"
    assert second.endswith(f"the same command goes on, or: graft resume {folder}")
    pipeline.failing.clear()
    assert main([]) == 0
    assert runs(empty_folder) == [folder]


@pytest.mark.parametrize("command", [[], ["-m", "seed=0,1"]], ids=["resume", "the same command"])
def test_a_sweep_stops_where_a_job_cannot_write_and_goes_on(
    pipeline: Pipeline, empty_folder: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failing[0] = OSError(errno.ENOSPC, "No space left on device", "a/last.ckpt")
    assert main(["-m", "seed=0,1"]) == 1
    assert "job 0 failed: a/last.ckpt: No space left on device" in capsys.readouterr().out
    folder = sweep_folder(empty_folder)
    pipeline.failing.clear()
    assert main(command if command else ["resume", str(folder)]) == 0
    assert pipeline.seeds == [0, 0, 1]
    assert sweep_folder(empty_folder) == folder


def test_what_writers_that_died_left_is_removed_on_resuming(pipeline: Pipeline, empty_folder: Path) -> None:
    pipeline.failing[0] = KeyboardInterrupt()
    assert main([]) == 130
    [folder] = runs(empty_folder)
    left = folder / "transfer" / f".last.ckpt.{32 * 'a'}"
    left.parent.mkdir()
    left.touch()
    pipeline.failing.clear()
    assert main(["resume", str(folder)]) == 0
    assert not left.exists()


def test_interrupts_are_heard_again_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)

    @interrupts()
    def stopped_by_lightning() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise SystemExit(1)

    with pytest.raises(KeyboardInterrupt):
        stopped_by_lightning()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no luck")])
def test_resume_a_run(error: BaseException, pipeline: Pipeline, empty_folder: Path) -> None:
    pipeline.failing[0] = error
    assert main(["strategy=lp_ft"]) != 0
    pipeline.failing.clear()
    assert main(["resume", "outputs/latest"]) == 0
    [folder] = runs(empty_folder)
    record = load_record(folder)
    assert record["status"] == "done"
    assert record["config"]["strategy"]["name"] == "lp_ft"
    assert main(["resume", str(folder)]) == 0
    assert pipeline.seeds == [0, 0]


def test_resume_goes_back_to_where_the_run_was_started(
    pipeline: Pipeline, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.failing[0] = KeyboardInterrupt()
    assert main([]) == 130
    pipeline.failing.clear()
    (empty_folder / "elsewhere").mkdir()
    monkeypatch.chdir(empty_folder / "elsewhere")
    assert main(["resume", str(runs(empty_folder)[0])]) == 0
    assert Path.cwd() == empty_folder


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_resume_nothing(folder: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", folder]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def sweep_folder(folder: Path) -> Path:
    [path] = folder.glob("outputs/*/*-sweep")
    return path


def statuses(sweep: Path) -> dict[str, str]:
    return {path.parent.name: load_record(path)["status"] for path in sorted(sweep.glob("*/record.json"))}


def jobs(sweep: Path) -> list[Path]:
    return [sweep / job["folder"] for job in json.loads((sweep / "sweep.json").read_text())["jobs"]]


def states(sweep: Path) -> list[str]:
    return [state_of(job) for job in jobs(sweep)]


@pytest.mark.parametrize("batch", [[], ["hydra.sweeper.max_batch_size=2"]], ids=["all", "two at a time"])
def test_a_sweep_survives_its_failures_and_resume_runs_just_those(
    batch: list[str], pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failing = {1: RuntimeError("no luck"), 3: UserError("a class is empty")}
    pipeline.before_record = True
    assert main(["-m", "seed=0,1,2,3,4", *batch]) == 1
    sweep = sweep_folder(empty_folder)
    assert statuses(sweep) == {"0": "done", "1": "failed", "2": "done", "3": "failed", "4": "done"}
    assert "Traceback" in load_record(sweep / "1")["error"]
    assert load_record(sweep / "3")["error"] == "a class is empty"
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert "job 1 failed: RuntimeError: no luck" in captured.out
    assert "job 3 failed: a class is empty" in captured.out
    assert "2 of 5" in captured.out
    assert len((sweep / "results.csv").read_text().splitlines()) == 6
    assert (empty_folder / "outputs" / "latest").resolve() == sweep

    pipeline.failing, pipeline.seeds = {}, []
    assert main(["resume", str(sweep)]) == 0
    assert pipeline.seeds == [1, 3]
    assert set(statuses(sweep).values()) == {"done"}
    assert json.loads((sweep / "sweep.json").read_text())["status"] == "done"


def test_the_same_sweep_goes_on_after_an_interrupt(pipeline: Pipeline, empty_folder: Path) -> None:
    pipeline.failing[1] = KeyboardInterrupt()
    assert main(["-m", "seed=0,1,2"]) == 130
    sweep = sweep_folder(empty_folder)
    assert statuses(sweep) == {"0": "done", "1": "running"}
    pipeline.failing.clear()
    assert main(["-m", "seed=0,1,2"]) == 0
    assert sweep_folder(empty_folder) == sweep
    assert pipeline.seeds == [0, 1, 1, 2]


def test_nothing_runs_where_one_job_of_a_sweep_cannot(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "trainer.max_epochs=8,2", "strategy=gradual_unfreeze"]) == 1
    assert capsys.readouterr().err == (
        "graft: strategy 'gradual_unfreeze': its 5 phases need at least 5 epochs; max_epochs is 2 "
        "(with trainer.max_epochs=2)\n"
    )
    assert pipeline.seeds == []
    assert not (empty_folder / "outputs").exists()


def test_a_sweep_over_groups_with_keys_of_their_own(pipeline: Pipeline, empty_folder: Path) -> None:
    words = ["-m", "target=arrays,image_folder", "target.path=x", "baselines=[]", "name=both", "precision=32"]
    assert main(words) == 0
    configs = [load_record(sweep_folder(empty_folder) / number)["config"] for number in "01"]
    assert [config["target"]["reader"]["_target_"].rpartition(".")[2] for config in configs] == [
        "Arrays",
        "ImageFolder",
    ]
    assert [config["target"]["path"] for config in configs] == ["x", "x"]


@pytest.mark.parametrize("by_hydra", [False, True])
def test_jobs_run_the_same_in_turn_and_by_hydras_launcher(
    by_hydra: bool, pipeline: Pipeline, empty_folder: Path
) -> None:
    pipeline.variable = "OF_THE_JOB"
    subdir = ["hydra.output_subdir=.hydra"] if by_hydra else []
    assert main(["-m", "seed=0,1", "+hydra.job.env_set.OF_THE_JOB=set", *subdir]) == 0
    sweep = sweep_folder(empty_folder)
    assert [(job / ".hydra").exists() for job in jobs(sweep)] == [by_hydra] * 2
    assert statuses(sweep) == {"0": "done", "1": "done"}
    assert pipeline.seen == ["set", "set"]
    assert "OF_THE_JOB" not in os.environ
    assert ["seed=0" in (job / "graft.log").read_text() for job in jobs(sweep)] == [True, False]


def test_the_first_failure_ends_a_sweep_that_shall_fail_fast(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failing[1] = RuntimeError("no luck")
    assert main(["-m", "seed=0,1,2,3", "sweep.fail_fast=true"]) == 1
    sweep = sweep_folder(empty_folder)
    assert states(sweep) == ["done", "failed", "queued", "queued"]
    assert not (sweep / "2").exists()
    printed = capsys.readouterr().out
    assert "queued: 2 jobs have not begun" in printed
    assert "runs the 3 of 4 that are not done" in printed
    pipeline.failing.clear()
    assert main(["resume", str(sweep)]) == 0
    assert pipeline.seeds == [0, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("error", "seeds"), [(RuntimeError("no luck"), [0, 1, 1, 1]), (UserError("no such class"), [0, 1])]
)
def test_a_failure_is_tried_again_unless_asking_for_it_was_wrong(
    error: Exception, seeds: list[int], pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failing[1] = error
    assert main(["-m", "seed=0,1", "sweep.retries=2"]) == 1
    assert pipeline.seeds == seeds
    record = load_record(sweep_folder(empty_folder) / "1")
    assert record["status"] == "failed"
    assert record.get("tries", 1) == len(seeds) - 1
    assert ("the last of 3 tries" in capsys.readouterr().out) == (len(seeds) == 4)


def test_a_job_whose_second_try_succeeds_is_done(pipeline: Pipeline, empty_folder: Path) -> None:
    pipeline.failing[1], pipeline.times = RuntimeError("no luck"), 1
    assert main(["-m", "seed=0,1", "sweep.retries=1"]) == 0
    assert pipeline.seeds == [0, 1, 1]
    assert load_record(sweep_folder(empty_folder) / "1")["tries"] == 2


def test_a_named_sweep_grows_and_repeats_nothing(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failing[1] = RuntimeError("no luck")
    assert main(["-m", "sweep.name=grid", "seed=0,1"]) == 1
    pipeline.failing.clear()
    pipeline.seeds = []
    assert main(["-m", "sweep.name=grid", "seed=2,0", "strategy=lp_ft,fine_tune", "sweep.retries=1"]) == 1
    assert pipeline.seeds == [2, 2, 0]  # fine_tune under seed 0 was found done; the failure is not asked for
    printed = capsys.readouterr().out
    assert "1 of 5 jobs are done already" in printed
    assert "failed: job 1 (seed=1): RuntimeError: no luck" in printed
    sweep = empty_folder / "outputs" / "sweeps" / "grid"
    assert states(sweep) == ["done", "failed", "done", "done", "done"]
    assert main(["resume", str(sweep)]) == 0
    assert pipeline.seeds == [2, 2, 0, 1]
    assert len((sweep / "results.csv").read_text().splitlines()) == 6
    found = {(load_record(job)["config"]["strategy"]["name"], load_record(job)["seed"]) for job in jobs(sweep)}
    assert found == {("fine_tune", 0), ("fine_tune", 1), ("fine_tune", 2), ("lp_ft", 2), ("lp_ft", 0)}
    assert main(["-m", "sweep.name=grid", "seed=0,1,2"]) == 0
    assert pipeline.seeds == [2, 2, 0, 1]


def test_jobs_that_compute_the_same_are_kept_apart(pipeline: Pipeline, empty_folder: Path) -> None:
    words = ["-m", "sweep.name=both", "features.cache_limit_gib=0,1"]
    assert main(words) == 0
    assert main(words) == 0
    assert pipeline.seeds == [0, 0]
    assert states(empty_folder / "outputs" / "sweeps" / "both") == ["done", "done"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["-m", "sweep.name=a/b", "seed=0,1"], "sweep.name=a/b: expected letters, digits"),
        (["-m", "sweep.name=a,b", "seed=0,1"], "each takes one value for the whole sweep"),
        (["-m", "sweep.retries=-1", "seed=0,1"], "sweep.retries=-1: expected 0 or more"),
        (["-m", "sweep.nam=a", "seed=0,1"], "did you mean 'sweep.name'?"),
        (["-m", "hydra.sweep.subdir=x", "seed=0,1"], "hydra.sweep.subdir=x: graft names the folders itself"),
        (
            ["-m", "seed=0,1", "trainer=ddp_cpu", "trainer.strategy=ddp"],
            "trainer.strategy=ddp: runs the whole sweep once per device",
        ),
        (["sweep.name=a"], "sweep.name=a: is a setting of a sweep; add -m"),
    ],
)
def test_settings_of_a_sweep_that_cannot_be(
    words: list[str], error: str, pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    assert error in capsys.readouterr().err
    assert not (empty_folder / "outputs").exists()


@pytest.mark.parametrize(("signals", "state"), [(1, "done"), (2, "missing")])
def test_the_first_ctrl_c_lets_the_running_job_end_and_the_second_does_not(
    signals: int, state: str, pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.signals[1] = signals
    assert main(["-m", "seed=0,1,2"]) == 130
    sweep = sweep_folder(empty_folder)
    assert states(sweep) == ["done", state, "queued"]
    assert f"graft resume {sweep.relative_to(empty_folder)}" in capsys.readouterr().err
    pipeline.signals.clear()
    assert main(["resume", str(sweep)]) == 0
    assert states(sweep) == ["done"] * 3
    assert pipeline.seeds == ([0, 1, 2] if state == "done" else [0, 1, 1, 2])


def test_a_damaged_record_is_missing_and_its_job_is_run_again(
    pipeline: Pipeline, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "sweep.name=a", "seed=0,1"]) == 0
    sweep = empty_folder / "outputs" / "sweeps" / "a"
    (sweep / "1" / "record.json").write_text("{")
    assert states(sweep) == ["done", "missing"]
    assert main(["resume", str(sweep)]) == 0
    assert pipeline.seeds == [0, 1, 1]
    assert states(sweep) == ["done", "done"]


def test_a_job_is_running_for_as_long_as_its_lock_is_held(tmp_path: Path) -> None:
    assert state_of(tmp_path) == "queued"
    with locked(tmp_path) as free:
        assert free
        assert state_of(tmp_path) == "running"
    assert state_of(tmp_path) == "missing"
