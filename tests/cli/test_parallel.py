"""Jobs at the same time: how many, and with how many threads; what is said of Hydra's own parts."""

import os

import pytest

from graft.cli import parallel
from graft.cli.main import main
from graft.cli.parallel import THREADS, parallel_jobs, shared_cores


@pytest.mark.parametrize(
    ("n_jobs", "num_jobs", "expected"),
    [(1, 8, 1), (2, 8, 2), (4, 3, 3), (-1, 0, 8), (-1, 3, 3), (-2, 20, 7), (-9, 4, 1)],
)
def test_jobs_at_once(n_jobs: int, num_jobs: int, expected: int) -> None:
    assert parallel_jobs(n_jobs, num_jobs, cores=8) == expected


@pytest.mark.parametrize(("jobs", "threads"), [(1, None), (2, "4"), (3, "2"), (20, "1")])
def test_cores_are_shared(jobs: int, threads: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "num_cores", lambda: 8)
    monkeypatch.delenv(THREADS, raising=False)
    with shared_cores(jobs):
        assert os.environ.get(THREADS) == threads
    assert THREADS not in os.environ


def test_the_users_own_number_of_threads_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, "3")
    with shared_cores(2):
        assert os.environ[THREADS] == "3"
    assert os.environ[THREADS] == "3"


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("hydra/launcher=jobli", "hydra/launcher=jobli: no such launcher; did you mean 'joblib'?"),
        ("hydra/launchr=joblib", "hydra/launchr=joblib: no such key; did you mean 'hydra/launcher'?"),
        ("hydra.job.nam=x", "hydra.job.nam: no such key; did you mean 'hydra.job.name'?"),
        ("hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs: no such key; hydra.launcher has none"),
    ],
)
def test_errors_about_hydras_own_parts(override: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", override, "seed=0,1"]) == 1
    assert capsys.readouterr().err == f"graft: {error}\n"


def test_a_setting_of_the_chosen_launcher(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "hydra/launcher=joblib", "hydra.launcher.njobs=2", "seed=0,1"]) == 1
    assert "did you mean 'hydra.launcher.n_jobs'?" in capsys.readouterr().err
