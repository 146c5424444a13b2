"""Averages of weights: exact at the ends, types kept, counters taken whole."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.averaging import statistics_differ, weighted
from graft.errors import UserError

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 4, generator=generator).to(dtype),
        "norm.running_mean": torch.randn(3, generator=generator).to(dtype),
        "norm.num_batches_tracked": torch.tensor(10 + seed),
        "mask": torch.tensor([True, False]),
    }


def identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit, so that -0.0 is not 0.0 and NaN is NaN."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in a
    )


@given(st.integers(0, 99))
def test_alpha_0_and_1_are_the_ends_bit_for_bit(seed: int) -> None:
    start, end = state(seed), state(seed + 1)
    start["weight"][0, 0], end["weight"][0, 1], start["weight"][1, 1] = -0.0, float("nan"), float("inf")
    assert identical(weighted([start, end], [1 - 0.0, 0.0]), start)
    assert identical(weighted([start, end], [1 - 1.0, 1.0]), end)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_types_are_kept_and_counters_are_the_last_ones(dtype: torch.dtype) -> None:
    averaged = weighted([state(seed, dtype) for seed in (3, 1, 2)], [1.0] * 3)
    assert {name: tensor.dtype for name, tensor in averaged.items()} == {
        name: tensor.dtype for name, tensor in state(0, dtype).items()
    }
    assert averaged["norm.num_batches_tracked"] == 12
    assert torch.equal(averaged["mask"], torch.tensor([True, False]))


@given(st.integers(1, 7), st.integers(0, 99))
def test_the_mean_of_equal_states_is_that_state(count: int, seed: int) -> None:
    assert identical(weighted([state(seed)] * count, [1.0] * count), state(seed))


@given(st.permutations(range(4)))
def test_the_order_of_states_does_not_matter(order: list[int]) -> None:
    a, b = (weighted([state(seed) for seed in seeds], [1.0] * 4) for seeds in (range(4), order))
    torch.testing.assert_close(a["weight"], b["weight"], rtol=0, atol=1e-7)


def test_half_precision_is_summed_in_float64() -> None:
    """Ten thousand ones and a half are lost in a running sum of bfloat16."""
    values = [1.0] * 1000 + [0.5] * 1000
    states = [{"w": torch.tensor([value], dtype=torch.bfloat16)} for value in values]
    assert weighted(states, [1.0] * len(states))["w"].item() == np.mean(values)


def test_results_share_no_memory_with_what_went_in() -> None:
    start, end = state(0), state(1)
    for alpha in (0.0, 0.5, 1.0):
        for tensor in weighted([start, end], [1 - alpha, alpha]).values():
            tensor.zero_()
    assert identical(start, state(0))
    assert identical(end, state(1))


def test_states_of_different_networks_are_refused_by_name() -> None:
    other = state(0) | {"weight": torch.zeros(4, 3), "extra": torch.zeros(1)}
    with pytest.raises(UserError, match="differ in extra, weight"):
        weighted([state(0), other], [1.0, 1.0])
    with pytest.raises(UserError, match=r"differ in mask, norm\.num_batches_tracked, norm\.running_mean and 1 more"):
        weighted([state(0), {}], [1.0, 1.0])


def test_whether_statistics_differ() -> None:
    a, b = state(0), state(1)
    assert statistics_differ([a, a, b])
    assert not statistics_differ([a, b | {"norm.running_mean": a["norm.running_mean"]}])
