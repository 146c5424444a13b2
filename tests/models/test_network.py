import pytest
import torch

from graft.models.backbones.cnn import Cnn
from graft.models.heads.base import Head
from graft.models.heads.linear import LinearHead
from graft.models.heads.ridge import RidgeHead
from graft.models.mappings.affine import AffineMapping
from graft.models.mappings.alignment import AlignmentMapping
from graft.models.mappings.base import Mapping
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network


def network(mapping: type[Mapping] = IdentityMapping, head: type[Head] = LinearHead) -> Network:
    return Network(Cnn(), mapping(84), head(84, 10))


def test_forward_is_head_of_mapping_of_backbone() -> None:
    net, x = network(AffineMapping), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        net.mapping.weight.mul_(2)
        assert torch.equal(net.features(x), 2 * net.backbone(x))
        assert torch.equal(net(x), net.head(net.features(x)))


def test_groups_in_order() -> None:
    groups = ["backbone.stem", "backbone.stage1", "backbone.stage2", "backbone.stage3", "mapping", "head"]
    assert list(network().named_groups()) == groups


def test_names_of_parameters_are_those_of_the_state() -> None:
    net = network(AffineMapping)
    rows = net.named_group_parameters()
    assert [name for name, _, _ in rows] == [name for name, _ in net.named_parameters()]
    assert all(parameter is dict(net.named_parameters())[name] for name, _, parameter in rows)
    assert rows[0][:2] == ("backbone.stem.conv1.weight", "backbone.stem")
    assert [row[:2] for row in rows[-4:]] == [
        ("mapping.weight", "mapping"),
        ("mapping.bias", "mapping"),
        ("head.linear.weight", "head"),
        ("head.linear.bias", "head"),
    ]


def test_what_is_solved_has_names_and_no_parameters() -> None:
    net = network(AlignmentMapping, RidgeHead)
    assert net.solved_names() == ("mapping.weight", "mapping.bias", "head.weight", "head.bias", "head.ridge_lambda")
    assert {group for _, group, _ in net.named_group_parameters()} == {
        name for name in net.named_groups() if name.startswith("backbone")
    }
    assert network().solved_names() == ()


def test_parts_must_fit() -> None:
    with pytest.raises(AssertionError, match="83"):
        Network(Cnn(), IdentityMapping(83), LinearHead(83, 10))
    with pytest.raises(AssertionError, match="85"):
        Network(Cnn(), IdentityMapping(84), LinearHead(85, 10))
