"""What holds of every regulariser's function, whatever the tensors."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graft.regularisers.bss import batch_spectral_shrinkage
from graft.regularisers.co_tuning import co_tuning
from graft.regularisers.delta import behaviour_distance
from graft.regularisers.feature_distillation import feature_distillation
from graft.regularisers.lwf import knowledge_distillation

SIZES = st.tuples(st.integers(1, 5), st.integers(2, 6), st.integers(0, 10_000))


def pair(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return first, second


@given(SIZES)
def test_distances_vanish_at_the_start_and_do_not_grow_with_the_batch(sizes: tuple[int, int, int]) -> None:
    f, f0 = pair(*sizes)
    assert feature_distillation(f0, f0) == behaviour_distance({"a": f0}, {"a": f0}) == 0
    twice, twice0 = torch.cat([f, f]), torch.cat([f0, f0])
    torch.testing.assert_close(feature_distillation(twice, twice0), feature_distillation(f, f0))
    torch.testing.assert_close(behaviour_distance({"a": twice}, {"a": twice0}), behaviour_distance({"a": f}, {"a": f0}))
    torch.testing.assert_close(knowledge_distillation(twice, twice0), knowledge_distillation(f, f0))


@given(SIZES)
def test_distillation_is_least_where_nothing_changed(sizes: tuple[int, int, int]) -> None:
    f, f0 = pair(*sizes)
    assert knowledge_distillation(f, f0) >= knowledge_distillation(f0, f0) - 1e-12


@given(SIZES)
def test_rotated_features_have_the_same_spectrum(sizes: tuple[int, int, int]) -> None:
    f, _ = pair(*sizes)
    rotation, _ = torch.linalg.qr(torch.randn(f.shape[1], f.shape[1], dtype=torch.float64))
    torch.testing.assert_close(
        batch_spectral_shrinkage(f @ rotation), batch_spectral_shrinkage(f), atol=1e-9, rtol=1e-7
    )


def test_gradients_are_right() -> None:
    f, f0 = pair(4, 3, 0)
    f.requires_grad_()
    relationship, y = torch.softmax(pair(2, 3, 1)[0], 1), torch.tensor([0, 1, 1, 0])
    for function in (
        batch_spectral_shrinkage,
        lambda f: feature_distillation(f, f0),
        lambda f: behaviour_distance({"a": f}, {"a": f0}),
        lambda f: knowledge_distillation(f, f0),
        lambda f: co_tuning(f, y, relationship),
    ):
        assert torch.autograd.gradcheck(function, [f])


def test_a_batch_of_low_rank_or_half_precision_is_finite() -> None:
    for features in (torch.ones(4, 3), torch.zeros(4, 3), torch.ones(1, 3), torch.full((4, 3), 300.0).half()):
        features.requires_grad_()
        value = batch_spectral_shrinkage(features, num_values=9)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(features.grad).all()
