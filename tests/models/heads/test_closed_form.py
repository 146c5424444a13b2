"""Heads that are solved: what is particular to each. What they share is in the contract test."""

import pytest
import torch
from torch import Tensor

from graft.errors import UserError
from graft.models.heads.base import ClosedFormHead
from graft.models.heads.prototype import PrototypeHead
from graft.models.heads.ridge import STRENGTHS, RidgeHead


def samples(n: int, d: int, k: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + d)
    labels = torch.arange(n) % k
    return torch.randn(n, d, generator=generator) + 2 * torch.eye(k, d)[labels] + 5, labels


def solved(head: ClosedFormHead, features: Tensor, labels: Tensor) -> ClosedFormHead:
    head.solve(features, labels)
    return head


def test_prototype_logits_are_negative_distances_up_to_a_constant_of_the_sample() -> None:
    features, labels = samples(30, 4, 3)
    logits = solved(PrototypeHead(4, 3), features, labels)(features)
    prototypes = torch.stack([features[labels == label].mean(0) for label in range(3)])
    squares = torch.cdist(features, prototypes) ** 2
    variance = squares.gather(1, labels[:, None]).sum() / ((30 - 3) * 4)
    expected = -squares / (2 * variance)
    torch.testing.assert_close(logits - logits[:, :1], expected - expected[:, :1], rtol=1e-4, atol=1e-3)


def test_prototype_with_one_sample_a_class() -> None:
    features = torch.eye(3)
    head = solved(PrototypeHead(3, 3), features, torch.arange(3))
    torch.testing.assert_close(head.weight, features)
    assert head(features).argmax(1).tolist() == [0, 1, 2]


def test_prototype_needs_a_sample_of_every_class() -> None:
    with pytest.raises(UserError, match="no training sample of class 1"):
        PrototypeHead(2, 3).solve(torch.randn(4, 2), torch.tensor([0, 2, 0, 2]))


@pytest.mark.parametrize("n", [2, 6, 200])
def test_ridge_is_finite_whatever_the_number_of_samples(n: int) -> None:
    features, labels = samples(n, 20, 2)
    head = solved(RidgeHead(20, 2), features, labels)
    assert head(features).isfinite().all()
    assert head.ridge_lambda > 0


def test_ridge_with_features_that_do_not_vary_predicts_the_frequencies() -> None:
    head = solved(RidgeHead(3, 2), torch.ones(4, 3), torch.tensor([0, 0, 0, 1]))
    torch.testing.assert_close(head(torch.ones(1, 3)), torch.tensor([[0.75, 0.25]]))
    assert head.ridge_lambda.isfinite()


def test_ridge_follows_the_scale_of_the_features() -> None:
    features, labels = samples(40, 10, 3)
    plain, scaled = (solved(RidgeHead(10, 3), s * features, labels)(s * features) for s in (1, 1000))
    torch.testing.assert_close(plain, scaled, rtol=1e-3, atol=1e-3)


def test_ridge_chooses_a_strong_penalty_for_noise_and_a_weak_one_for_signal() -> None:
    generator = torch.Generator().manual_seed(0)
    noise, labels = torch.randn(60, 30, generator=generator), torch.arange(60) % 2
    signal = noise.clone()
    signal[:, 0] += 100 * labels
    strong = solved(RidgeHead(30, 2), noise, labels).ridge_lambda / noise.var()
    weak = solved(RidgeHead(30, 2), signal, labels).ridge_lambda / noise.var()
    assert strong > 10 * weak


def test_ridge_with_too_little() -> None:
    with pytest.raises(UserError, match="1 training samples"):
        RidgeHead(2, 2).solve(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))
    for strengths in ([], [0.0], [-1.0, 1.0]):
        with pytest.raises(UserError, match=r"head\.strengths"):
            RidgeHead(2, 2, strengths)
    assert min(STRENGTHS) > 0


@pytest.mark.parametrize("head", [PrototypeHead, RidgeHead])
def test_solving_needs_no_gradient_and_keeps_none(head: type[ClosedFormHead]) -> None:
    features, labels = samples(12, 4, 3)
    module = solved(head(4, 3), features.requires_grad_(), labels)
    assert not module.weight.requires_grad
    module(features).sum().backward()
    assert features.grad is not None
