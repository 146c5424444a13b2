"""Small networks are left few threads; what was there comes back."""

from collections.abc import Iterator

import pytest
import torch
from hydra.core.config_loader import ConfigLoader

from graft.build.assembly import build_experiment
from graft.cli.compose import compose
from graft.threads import forward_flop, paying_threads


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("backbone=cnn",), 1),
        (("backbone=resnet20", "target.batch_size=8", "source.batch_size=8"), 2),
        (("backbone=resnet20", "target.batch_size=8", "source.batch_size=16"), 4),
        (("backbone=resnet20", "target.batch_size=64"), 4),
    ],
)
def test_threads_follow_the_arithmetic_of_a_step(
    loader: ConfigLoader, overrides: tuple[str, ...], expected: int
) -> None:
    experiment = build_experiment(compose(loader, ["trainer=cpu", *overrides]))
    with paying_threads(experiment):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 4


def test_operations_of_the_tutorial_network(loader: ConfigLoader) -> None:
    experiment = build_experiment(compose(loader, ["trainer=cpu"]))
    convolutions = 28 * 28 * 6 * 3 * 25 + 10 * 10 * 16 * 6 * 25
    assert forward_flop(experiment) == 2 * (convolutions + 400 * 120 + 120 * 84)
