"""The neighbours that a bank finds."""

import pytest
import torch
from torch import Tensor

from graft.adaptation.bank import Bank, products

NUM_FEATURES = 20


@pytest.mark.parametrize("num_samples", [3, 128, 300])  # fewer than a chunk, a whole one, and a part of one left over
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_samples_seen(num_samples: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(num_samples)
    bank = Bank(num_samples, NUM_FEATURES, num_classes=2).to(dtype)
    seen = torch.randperm(num_samples, generator=generator)[: max(2, num_samples // 2)]
    features = torch.randn(len(seen), NUM_FEATURES, generator=generator, dtype=dtype)
    bank.put(seen, features, torch.ones(len(seen), 2, dtype=dtype))

    found = bank.nearest(features, seen, num=5)

    expected = others_from_nearest(features)[:, :5]
    num_there = expected.shape[1]
    assert torch.equal(found.positions[:, :num_there], seen[expected])
    assert found.there[:, :num_there].all()
    assert not found.there[:, num_there:].any()


def others_from_nearest(features: Tensor) -> Tensor:
    """For each of features [n, d] the places of the others, from the largest cosine on: [n, n - 1]."""
    directions = torch.nn.functional.normalize(features.double(), dim=1)
    cosines = (directions @ directions.T).fill_diagonal_(-torch.inf)
    return cosines.argsort(dim=1, descending=True)[:, :-1]


def test_products_are_not_rounded_by_autocast() -> None:
    directions, features = torch.randn(4, NUM_FEATURES), torch.randn(256, NUM_FEATURES)
    with torch.autocast("cpu", torch.bfloat16):
        found = products(directions, features)
    torch.testing.assert_close(found.double(), directions.double() @ features.double().T, rtol=1e-5, atol=1e-5)
