"""Norm and bias tuning on a network whose norms are LayerNorms."""

from builders import strategy, tiny_vit
from torch import nn

from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network


def trained(name: str) -> tuple[Network, set[str]]:
    body = tiny_vit()
    network = Network(body, IdentityMapping(16), LinearHead(16, 3))
    (phase,) = strategy(name).resolve(network, max_epochs=2)
    return network, {path for path in phase.trained_names if path.startswith("backbone.")}


def test_norm_only_trains_the_layer_norms_of_a_vit() -> None:
    network, names = trained("norm_only")
    norms = {id(p) for m in network.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    assert names == {name for name, _, parameter in network.named_group_parameters() if id(parameter) in norms}
    assert len(names) == 2 * (2 * 2 + 1)


def test_bias_only_trains_every_bias_of_a_vit() -> None:
    network, names = trained("bias_only")
    expected = {name for name, _, _ in network.named_group_parameters() if name.endswith(("bias", "in_proj_bias"))}
    assert names == expected - {"head.linear.bias"}
    assert any(name.endswith("self_attention.in_proj_bias") for name in names)
    assert any(name.endswith("ln_1.bias") for name in names)
