"""Heads that are trained: what is particular to each."""

from typing import Any

import pytest
import torch

from graft.errors import UserError
from graft.models.heads.cosine import CosineHead
from graft.models.heads.mlp import MlpHead


def test_cosine_ignores_the_length_of_features() -> None:
    head, features = CosineHead(6, 3), torch.randn(4, 6)
    torch.testing.assert_close(head(features), head(100 * features))
    assert head(features).abs().max() <= head.scale + 1e-5
    torch.testing.assert_close(head(head.weight).diagonal(), head.scale.expand(3))


def test_cosine_of_dead_features_is_finite() -> None:
    head, features = CosineHead(6, 3), torch.zeros(2, 6, requires_grad=True)
    head(features).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_mlp_drops_only_while_training() -> None:
    head, features = MlpHead(6, 3, num_hidden=64, dropout=0.5), torch.randn(4, 6)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


@pytest.mark.parametrize(
    ("head", "options"),
    [
        (MlpHead, {"num_hidden": 0}),
        (MlpHead, {"dropout": 1.0}),
        (MlpHead, {"dropout": -0.1}),
        (CosineHead, {"scale": 0}),
    ],
)
def test_arguments_out_of_range(head: Any, options: dict[str, float]) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(UserError, match=rf"head\.{name}={value}"):
        head(6, 3, **options)
