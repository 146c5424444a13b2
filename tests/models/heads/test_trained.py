"""Heads that are trained: what is particular to each."""

from typing import Any

import pytest
import torch
from torch.nn.utils.parametrizations import weight_norm

from graft.errors import UserError
from graft.models.heads.cosine import CosineHead
from graft.models.heads.mlp import MlpHead
from graft.models.heads.weight_norm import WeightNormHead


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


def test_weight_norm_is_torchs_own() -> None:
    head, features = WeightNormHead(6, 3), torch.randn(4, 6)
    plain = torch.nn.Linear(6, 3)
    with torch.no_grad():
        head.bias += torch.randn(3)
        plain.weight.copy_(head.direction)
        plain.bias.copy_(head.bias)
    torch.testing.assert_close(head(features), plain(features))
    theirs = weight_norm(plain)
    with torch.no_grad():
        head.length.copy_(torch.tensor([0.5, 1.0, 2.0]))
        theirs.parametrizations.weight.original0.copy_(head.length[:, None])
    torch.testing.assert_close(head(features), theirs(features))
    for module in (head, theirs):
        module(features).square().sum().backward()
    torch.testing.assert_close(head.direction.grad, theirs.parametrizations.weight.original1.grad)
    torch.testing.assert_close(head.length.grad, theirs.parametrizations.weight.original0.grad[:, 0])


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
