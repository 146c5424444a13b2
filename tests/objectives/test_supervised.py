import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from graft.errors import UserError
from graft.objectives.supervised import CrossEntropy, LeastSquares, Objective, Outputs, cross_entropy, least_squares

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
LABELS = torch.tensor([0, 2])
OBJECTIVES: list[Objective] = [CrossEntropy(), CrossEntropy(0.1), LeastSquares()]


def draw(n: int, k: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=generator, dtype=torch.float64)
    return logits, torch.randint(k, (n,), generator=generator)


def total(objective: Objective, logits: Tensor, y: Tensor) -> Tensor:
    terms = objective(Outputs(logits=logits, features=logits), y, 0.5)
    return torch.stack(list(terms.values())).sum()


def test_cross_entropy_by_hand() -> None:
    first = -np.log(np.exp(2.0) / (np.exp(2.0) + 1 + np.exp(-1.0)))
    assert float(cross_entropy(LOGITS, LABELS)) == pytest.approx((first + np.log(3)) / 2)


def test_least_squares_by_hand() -> None:
    # (2-1)^2 + 0 + (-1)^2 = 2 and .25 + .25 + (.5-1)^2 = .75
    assert float(least_squares(LOGITS, LABELS)) == pytest.approx((2.0 + 0.75) / 2)


@given(st.integers(1, 6), st.integers(2, 5), st.floats(0, 0.9), st.integers(0, 10_000))
def test_smoothed_cross_entropy_against_numpy(n: int, k: int, smoothing: float, seed: int) -> None:
    logits, labels = draw(n, k, seed)
    z = logits.numpy()
    log_probabilities = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    targets = (1 - smoothing) * np.eye(k)[labels.numpy()] + smoothing / k
    expected = -(targets * log_probabilities).sum(axis=1).mean()
    assert float(cross_entropy(logits, labels, smoothing)) == pytest.approx(expected)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@given(n=st.integers(1, 6), k=st.integers(2, 5), seed=st.integers(0, 10_000))
def test_one_hot_probabilities_are_labels(objective: Objective, n: int, k: int, seed: int) -> None:
    logits, labels = draw(n, k, seed)
    one_hot = F.one_hot(labels, k).double()
    torch.testing.assert_close(total(objective, logits, one_hot), total(objective, logits, labels))


@given(st.floats(0, 1), st.integers(0, 10_000))
def test_mixed_labels_mix_the_cross_entropy(share: float, seed: int) -> None:
    logits, labels = draw(5, 3, seed)
    one_hot = F.one_hot(labels, 3).double()
    mixed = cross_entropy(logits, share * one_hot + (1 - share) * one_hot.flip(0))
    parts = share * cross_entropy(logits, labels) + (1 - share) * cross_entropy(logits, labels.flip(0))
    torch.testing.assert_close(mixed, parts)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_strength_does_not_grow_with_the_batch(objective: Objective) -> None:
    once, twice = total(objective, LOGITS, LABELS), total(objective, LOGITS.repeat(2, 1), LABELS.repeat(2))
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("soft", [False, True])
def test_gradients(objective: Objective, soft: bool) -> None:
    logits, labels = draw(4, 3, seed=0)
    y = F.one_hot(labels, 3).double() if soft else labels
    assert torch.autograd.gradcheck(lambda z: total(objective, z, y), logits.requires_grad_())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("soft", [False, True])
def test_half_precision_logits_are_reduced_in_single(objective: Objective, dtype: torch.dtype, soft: bool) -> None:
    logits = (300 * LOGITS).to(dtype)  # squares overflow half precision
    y = F.one_hot(LABELS, 3).float() if soft else LABELS
    value = total(objective, logits, y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, total(objective, logits.float(), y))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_smoothing_out_of_range(smoothing: float) -> None:
    with pytest.raises(UserError, match=r"label_smoothing=.*; expected a number from 0 to below 1"):
        CrossEntropy(label_smoothing=smoothing)


def test_terms_are_named() -> None:
    outputs = Outputs(logits=LOGITS, features=LOGITS)
    assert list(CrossEntropy()(outputs, LABELS, 0.0)) == ["cross_entropy"]
    assert list(LeastSquares()(outputs, LABELS, 0.0)) == ["least_squares"]
