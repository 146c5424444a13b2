"""What holds for every mapping of `conf/mapping`."""

from pathlib import Path

import pytest
import torch
from conf_plugins import CONF, build, load, names

from graft.models.mappings.base import Mapping

NUM_FEATURES = 12


@pytest.fixture(params=names("mapping"))
def mapping(request: pytest.FixtureRequest) -> Mapping:
    torch.manual_seed(0)
    return build(load("mapping", request.param), num_features=NUM_FEATURES)


def test_it_starts_at_the_identity(mapping: Mapping) -> None:
    features = torch.randn(5, NUM_FEATURES)
    assert mapping.num_features == NUM_FEATURES
    assert mapping(features).shape == (5, mapping.num_outputs)
    torch.testing.assert_close(mapping(features), features)


def test_it_can_move_away_from_the_identity_if_it_has_parameters(mapping: Mapping) -> None:
    features = torch.randn(5, NUM_FEATURES)
    parameters = list(mapping.parameters())
    if not parameters:
        pytest.skip("nothing to train")
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(2):  # a factor that starts at zero keeps the gradient of the other at zero for one step
        optimizer.zero_grad()
        mapping(features).square().sum().backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in parameters)
    assert not torch.allclose(mapping(features), features)


def test_state_survives_a_round_trip(mapping: Mapping, request: pytest.FixtureRequest) -> None:
    with torch.no_grad():
        for tensor in mapping.state_dict().values():
            tensor.add_(torch.randn_like(tensor))
    other = build(load("mapping", request.node.callspec.params["mapping"]), num_features=NUM_FEATURES)
    other.load_state_dict(mapping.state_dict())
    features = torch.randn(5, NUM_FEATURES)
    assert torch.equal(other(features), mapping(features))


@pytest.mark.parametrize("path", sorted((CONF / "mapping").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_first_line_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")
