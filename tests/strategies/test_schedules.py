"""Traces against torch's own schedulers, which step a stateful object; ours is a function of the step."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD, Optimizer, lr_scheduler

from graft.errors import UserError
from graft.strategies.schedules import Constant, Cosine, InverseDecay, OneCycle, Schedule, SlantedTriangular, Step

SCHEDULES: list[Schedule] = [
    Constant(),
    Cosine(),
    Cosine(0.0, 0.1),
    OneCycle(),
    InverseDecay(),
    SlantedTriangular(),
    Step(),
    Step((0.2, 0.4, 0.9), 0.5),
]


def torch_trace(make: Callable[[Optimizer], lr_scheduler.LRScheduler], total: int) -> list[float]:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(total):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def trace(schedule: Schedule, total: int) -> list[float]:
    return [schedule(step, total) for step in range(total)]


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine(final: float) -> None:
    expected = torch_trace(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=40, eta_min=final), 40)
    assert trace(Cosine(warmup_fraction=0.0, final=final), 40) == pytest.approx(expected, abs=1e-6)


def test_warm_up_is_linear_and_reaches_the_peak_once() -> None:
    rates = trace(Cosine(warmup_fraction=0.25), 16)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == pytest.approx([(1 + math.cos(math.pi * step / 12)) / 2 for step in range(1, 12)])


@pytest.mark.parametrize("total", [7, 10, 50])
def test_one_cycle(total: int) -> None:
    # One step fewer, because torch warns when stepped beyond the cycle.
    def make(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
        return lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total, cycle_momentum=False)

    assert trace(OneCycle(), total)[:-1] == pytest.approx(torch_trace(make, total - 1), rel=1e-6)
    assert OneCycle()(total - 1, total) == pytest.approx(1 / 25 / 1e4)


def test_slanted_triangular_is_the_papers_formula() -> None:
    """Howard and Ruder, equation 3, where the cut is a whole number of steps."""
    total, cut_fraction, ratio = 40, 0.1, 32
    cut = int(total * cut_fraction)
    expected = []
    for t in range(total):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_fraction - 1))
        expected.append((1 + p * (ratio - 1)) / ratio)
    assert trace(SlantedTriangular(), total) == pytest.approx(expected)
    assert max(expected) == expected[cut] == 1.0


def test_inverse_decay_is_the_papers_formula() -> None:
    def make(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
        return lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 10 * step / 40) ** 0.75)

    assert trace(InverseDecay(), 40) == pytest.approx(torch_trace(make, 40))


def test_step() -> None:
    expected = torch_trace(lambda o: lr_scheduler.MultiStepLR(o, milestones=[10, 14], gamma=0.5), 20)
    assert trace(Step((0.5, 0.7), 0.5), 20) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@given(data=st.data())
def test_factors_stay_in_the_unit_interval(schedule: Schedule, data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 500))
    step = data.draw(st.integers(0, total + 3))
    assert 0.0 <= schedule(step, total) <= 1.0
    assert math.isfinite(schedule(step, total))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_stage_of_one_step_trains(schedule: Schedule) -> None:
    assert schedule(0, 1) > 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(warmup_fraction=1.5), r"warmup_fraction=1\.5; expected a number from 0 to 1"),
        (lambda: Cosine(final=-1), "final=-1"),
        (lambda: OneCycle(div_factor=0.5), r"div_factor=0\.5; expected a number from 1 on"),
        (lambda: OneCycle(warmup_fraction=2), "warmup_fraction=2"),
        (lambda: InverseDecay(rate=-1.0), r"rate=-1\.0; expected a number from 0 on"),
        (lambda: InverseDecay(power=math.inf), "power=inf"),
        (lambda: SlantedTriangular(cut_fraction=2), "cut_fraction=2"),
        (lambda: SlantedTriangular(ratio=0.5), r"ratio=0\.5; expected a number from 1 on"),
        (lambda: Step(milestones=(10,)), "milestones=10"),
        (lambda: Step(gamma=2.0), r"gamma=2\.0"),
    ],
)
def test_settings_out_of_range(make: Callable[[], Schedule], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
