"""What holds of every regulariser's function, whatever the tensors."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from graft.regularisers.bi_tuning import Keys, contrast
from graft.regularisers.bss import batch_spectral_shrinkage
from graft.regularisers.co_tuning import LARGEST_SCALE, LEAST_SCALE, RELATIONSHIPS, calibrating_scale, co_tuning
from graft.regularisers.delta import behaviour_distance, channel_attention
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


@given(SIZES)
def test_attention_is_a_distribution_that_follows_the_loss(sizes: tuple[int, int, int]) -> None:
    increases = pair(*sizes)[0][0]
    attention = channel_attention(increases)
    torch.testing.assert_close(attention.sum(), torch.ones((), dtype=torch.float64))
    assert torch.equal(attention.argsort(), increases.argsort())
    torch.testing.assert_close(channel_attention(7 * increases - 3), attention)


@given(SIZES)
def test_even_attention_is_none(sizes: tuple[int, int, int]) -> None:
    f, f0 = pair(*sizes)
    even = channel_attention(torch.zeros(f.shape[1], dtype=torch.float64))
    torch.testing.assert_close(
        behaviour_distance({"a": f}, {"a": f0}, {"a": even}), behaviour_distance({"a": f}, {"a": f0})
    )


@given(SIZES)
def test_calibrated_logits_are_no_worse_and_calibrated_already(sizes: tuple[int, int, int]) -> None:
    logits, _ = pair(*sizes)
    y = logits.roll(1, dims=1).argmax(dim=1)
    y[0] = logits[0].argmax()
    scale = calibrating_scale(logits, y)
    assert cross_entropy(scale * logits, y) <= cross_entropy(logits, y) + 1e-12
    at_a_bound = scale < LEAST_SCALE * 1.01 or scale > LARGEST_SCALE / 1.01
    if not at_a_bound and cross_entropy(scale * logits, y) > 1e-3:
        torch.testing.assert_close(calibrating_scale(scale * logits, y), torch.ones((), dtype=torch.float64))


@settings(max_examples=10, deadline=None)
@given(SIZES)
def test_relationships_are_distributions(sizes: tuple[int, int, int]) -> None:
    n, d, seed = sizes
    p, y = torch.softmax(pair(4 * n, d, seed)[0], dim=1), torch.arange(4 * n) % 3
    for relationship in RELATIONSHIPS.values():
        found = relationship(p, y, 3)
        assert found.shape == (3, d)
        assert (found >= 0).all()
        torch.testing.assert_close(found.sum(dim=1), torch.ones(3, dtype=torch.float64))


@given(SIZES)
def test_contrast_is_least_where_all_positives_are_alike_and_above_all_others(sizes: tuple[int, int, int]) -> None:
    n, m, seed = sizes
    own, others = pair(n, 1, seed)[0][:, 0], pair(n, m, seed)[1]
    positive = others > 0
    least = (1 + positive.sum(dim=1)).double().log().mean()
    assert contrast(own, others, positive, 0.5) >= least - 1e-12
    apart = torch.where(positive, 1.0, -1e6).double()
    torch.testing.assert_close(contrast(torch.ones_like(own), apart, positive, 0.5), least)
    assert contrast(own, others[:, :0], positive[:, :0], 0.5) == 0


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 4))
def test_queues_hold_the_latest_keys_of_each_class(labels: list[int], num_keys: int) -> None:
    keys, added = Keys(3, num_keys, 1, 1), torch.arange(len(labels)).float()[:, None]
    for some in torch.arange(len(labels)).split(5):
        keys.add(added[some], -added[some], torch.tensor(labels)[some])
    h, z, classes = keys.filled()
    assert torch.equal(h, -z)
    for label in range(3):
        latest = [i for i, y in enumerate(labels) if y == label][-num_keys:]
        assert sorted(h[classes == label, 0].tolist()) == latest


def test_gradients_are_right() -> None:
    f, f0 = pair(4, 3, 0)
    f.requires_grad_()
    relationship, y = torch.softmax(pair(2, 3, 1)[0], 1), torch.tensor([0, 1, 1, 0])
    for function in (
        batch_spectral_shrinkage,
        lambda f: feature_distillation(f, f0),
        lambda f: behaviour_distance({"a": f}, {"a": f0}),
        lambda f: behaviour_distance({"a": f}, {"a": f0}, {"a": relationship[0]}),
        lambda f: contrast(f[:, 0], f0, f0 > 0, 0.5),
        lambda f: contrast(f0[:, 0], f, f0 > 0, 0.5),
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
