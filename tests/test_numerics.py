"""What `auto` stands for: chosen by a trial, once, and said in the record."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.config_loader import ConfigLoader

from graft import numerics
from graft.build.assembly import build_experiment
from graft.cli.compose import compose
from graft.experiment import Experiment, Training
from graft.models.network import Network
from graft.numerics import candidates, settle, step_seconds
from graft.pipeline import target_network
from graft.records.store import Store

TIMES = {
    ("32", "contiguous"): 4.0,
    ("32", "channels_last"): 3.0,
    ("bf16-mixed", "contiguous"): 5.0,
    ("bf16-mixed", "channels_last"): 2.0,
}
Made = Callable[..., Experiment]


@pytest.fixture
def experiment(loader: ConfigLoader) -> Made:
    def make(*overrides: str) -> Experiment:
        made = build_experiment(compose(loader, ["trainer=cpu", *overrides]))
        made.target.load(made.backbone().preprocessing)
        return made

    return make


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("precision=auto", "memory_format=auto"), ("bf16-mixed", "channels_last")),
        (("precision=auto", "memory_format=contiguous"), ("32", "contiguous")),
        (("precision=auto",), ("bf16-mixed", "channels_last")),
        (("memory_format=auto",), ("32", "channels_last")),
    ],
)
def test_the_fastest_is_chosen_among_what_is_left_open(
    experiment: Made,
    overrides: tuple[str, ...],
    expected: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def seconds(experiment: Experiment, training: Training, network: Network) -> float:
        tried.append(training.precision)
        return TIMES[training.precision, training.memory_format] / 1000

    monkeypatch.setattr(numerics, "step_seconds", seconds)
    asked = experiment(*overrides)
    for _ in range(2):  # the second time the trial is in the store
        settled, said = settle(asked, lambda: target_network(asked), Store(tmp_path))
        for training in (settled.transfer, settled.pretrain):
            assert (training.precision, training.memory_format) == expected
        assert (said["precision"], said["memory_format"]) == expected
        assert min(said["trial"], key=said["trial"].get) == " ".join(expected)
    assert len(tried) == len(candidates(asked.transfer))


def test_what_is_said_is_kept(experiment: Made, tmp_path: Path) -> None:
    asked = experiment("precision=bf16-mixed", "memory_format=contiguous")
    settled, said = settle(asked, lambda: target_network(asked), Store(tmp_path))
    assert settled is asked
    assert said == {"precision": "bf16-mixed", "memory_format": "contiguous"}
    assert not list(tmp_path.iterdir())


def test_every_candidate_can_be_tried(experiment: Made) -> None:
    asked = experiment("precision=auto", "memory_format=auto", "backbone=resnet20")
    tried = candidates(asked.transfer).values()
    assert len(tried) == 4
    assert all(step_seconds(asked, training, target_network(asked)) > 0 for training in tried)
