"""What holds for every head of `conf/head`."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conf_plugins import CONF, build, load, names
from torch import Tensor

from graft.models.heads.base import ClosedFormHead, Head

NUM_FEATURES, NUM_CLASSES, NUM_SAMPLES = 12, 3, 90


@pytest.fixture(params=names("head"))
def head(request: pytest.FixtureRequest) -> Head:
    torch.manual_seed(0)
    return build(load("head", request.param), num_features=NUM_FEATURES, num_classes=NUM_CLASSES)


def samples() -> tuple[Tensor, Tensor]:
    """Features and labels of three separate classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(NUM_SAMPLES) % NUM_CLASSES
    centres = 3 * torch.randn(NUM_CLASSES, NUM_FEATURES, generator=generator)
    return centres[labels] + torch.randn(NUM_SAMPLES, NUM_FEATURES, generator=generator), labels


def learn(head: Head, features: Tensor, labels: Tensor) -> None:
    if isinstance(head, ClosedFormHead):
        head.solve(features, labels)
        return
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(head(features), labels).backward()
        optimizer.step()


def test_logits_have_one_column_for_each_class(head: Head) -> None:
    assert (head.num_features, head.num_classes) == (NUM_FEATURES, NUM_CLASSES)
    assert head(torch.randn(5, NUM_FEATURES)).shape == (5, NUM_CLASSES)


def test_it_learns_what_can_be_learnt(head: Head) -> None:
    features, labels = samples()
    learn(head, features, labels)
    assert (head.eval()(features).argmax(1) == labels).float().mean() > 0.95


def test_it_is_either_trained_or_solved(head: Head) -> None:
    solved = isinstance(head, ClosedFormHead)
    assert solved == (not list(head.parameters()))
    assert solved == hasattr(head, "solve")
    if not solved:
        head(torch.randn(4, NUM_FEATURES)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in head.parameters())


def test_state_survives_a_round_trip(head: Head, request: pytest.FixtureRequest) -> None:
    features, labels = samples()
    learn(head, features, labels)
    other = build(
        load("head", request.node.callspec.params["head"]), num_features=NUM_FEATURES, num_classes=NUM_CLASSES
    )
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.eval()(features), head.eval()(features))


@pytest.mark.parametrize("path", sorted((CONF / "head").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_first_line_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")
