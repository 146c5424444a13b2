"""How far apart two domains lie: what the measure does not depend on, and where it has no value."""

import pytest
import torch
from paired_steps import drawn

from graft.adaptation.discriminator import domain_accuracy
from graft.adaptation.distance import a_distance


def test_one_distribution_is_near_nothing_and_two_far_apart_are_at_most() -> None:
    source, target = drawn(300, 5, seed=1), drawn(200, 5, seed=2)
    near, far = a_distance(source, target), a_distance(source, target + 20)
    assert near == pytest.approx(0.0, abs=0.3)
    assert far == 2.0


def test_more_samples_of_one_domain_do_not_bring_them_apart() -> None:
    found = a_distance(drawn(400, 5, seed=1), drawn(20, 5, seed=2))  # 20 in 420 would be wrong
    assert found == pytest.approx(0.0, abs=0.4)


def test_scale_and_place_of_the_features_do_not_matter() -> None:
    source, target = drawn(60, 4, seed=1), drawn(80, 4, seed=2) + 0.7
    scale, shift = torch.tensor([1e-3, 1.0, 50.0, 1e4]), 30.0
    assert a_distance(source, target) == a_distance(source * scale + shift, target * scale + shift)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_have_none(bad: float) -> None:
    assert a_distance(drawn(9, 3), drawn(9, 3).fill_(bad)) is None
    assert a_distance(drawn(9, 3), drawn(1, 3)) is None


def test_dead_features_are_not_told_apart() -> None:
    assert a_distance(torch.ones(20, 3), torch.ones(20, 3)) == 0.0


def test_a_discriminator_is_right_by_the_sign_of_its_logits_and_each_domain_counts_the_same() -> None:
    source, target = torch.tensor([1.0, 0.1, -2.0, 3.0]), torch.tensor([-1.0, 4.0])
    assert domain_accuracy(source.requires_grad_(), target) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert domain_accuracy(torch.ones(10), torch.ones(3)) == 0.5
    assert not domain_accuracy(source, target).requires_grad
