"""Gradients go where they should: reversed into the features, unscaled into what is learned beside the network."""

import math

import pytest
import torch
from builders import network
from paired_steps import begun, double_network, drawn, leaves, method, step_on
from torch import Tensor

from graft.adaptation.adda import fooling_loss
from graft.adaptation.discriminator import Discriminator, domain_loss
from graft.adaptation.reversal import reverse
from graft.regularisers.base import Term

REVERSED = ("cdan", "cdan_e", "dann", "mdd", "wdgrl")  # whose features take no gradient but through the reversal


def gradients(name: str, coefficient: float, monkeypatch: pytest.MonkeyPatch | None = None) -> list[Tensor]:
    """Of the features of both domains, then of what is learned beside the network; not reversed with a monkeypatch."""
    net, features = double_network(), leaves()
    term = begun(method(name, weight=coefficient, gamma=None), net)
    if monkeypatch is not None:
        module = "two_classifiers" if name in ("mcd", "swd") else name.removesuffix("_e")
        monkeypatch.setattr(f"graft.adaptation.{module}.reverse", lambda x, coefficient: x)
    torch.manual_seed(0)
    term(step_on(net, *features)).backward()
    return [*(values.grad for values in features), *(parameter.grad for parameter in term.parameters())]


def test_reversal_is_exact() -> None:
    x = drawn(4, 3).requires_grad_()
    plain = drawn(4, 3, seed=1)
    reversed_x = reverse(x, 0.7)
    assert torch.equal(reversed_x, x)
    (reversed_x * plain).sum().backward()
    assert torch.equal(x.grad, -0.7 * plain)


@pytest.mark.parametrize("name", REVERSED)
@pytest.mark.parametrize("coefficient", [0.0, 0.3, 1.0])
def test_features_learn_against_and_the_rest_unscaled(
    name: str, coefficient: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = gradients(name, coefficient)
    plain = gradients(name, coefficient, monkeypatch)
    assert plain[0].any()
    assert plain[1].any()
    for i, (one, other) in enumerate(zip(found, plain, strict=True)):
        torch.testing.assert_close(one, -coefficient * other if i < 2 else other, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["mcd", "swd"])
def test_features_of_the_target_learn_against_two_classifiers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source's take the plain gradient of the second head's cross-entropy."""
    found, plain = gradients(name, 0.3), gradients(name, 0.3, monkeypatch)
    torch.testing.assert_close(found[1], -0.3 * plain[1], rtol=1e-12, atol=1e-15)
    for one, other in zip([found[0], *found[2:]], [plain[0], *plain[2:]], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["dann", "cdan"])
def test_the_ramp_is_the_reversals(name: str) -> None:
    """The discriminator's loss is whole from the start; the features learn against it as the ramp says."""
    net, norms, losses = double_network(), [], []
    term = begun(method(name), net)
    for progress in (0.0, 0.1, 1.0):
        source, target = leaves()
        loss = term(step_on(net, source, target, progress))
        loss.backward()
        losses.append(loss.item())
        norms.append(float(target.grad.norm()))
    assert losses[0] == losses[1] == losses[2]
    assert norms[0] == 0
    assert norms[1] / norms[2] == pytest.approx(0.4621171573 / 0.9999092043, rel=1e-9)


def test_entropies_learn_against_the_discriminator_too() -> None:
    """The predictions take a gradient with CDAN+E only."""
    taken = {}
    for name in ("cdan", "cdan_e"):
        net, features = double_network(), leaves()
        begun(method(name), net)(step_on(net, *features)).backward()
        taken[name] = net.head.linear.weight.grad
    assert taken["cdan"] is None
    assert taken["cdan_e"].any()


@pytest.mark.parametrize("name", ["dann", "cdan", "cdan_e", "adda"])
def test_the_loss_begins_at_ln_2(name: str) -> None:
    net = network("cnn")
    term = begun(method(name, weight=0.0), net)
    loss = term(step_on(net, *leaves(64, 32, torch.float32)))
    assert loss.item() == pytest.approx(math.log(2), abs=0.02)


def discriminator_accuracy(term: Term, source: Tensor, target: Tensor) -> float:
    with torch.no_grad():
        right = torch.cat([term.discriminator(source) > 0, term.discriminator(target) < 0])
    return float(right.float().mean())


@pytest.mark.parametrize("name", ["dann", "adda"])
def test_a_discriminator_that_nothing_works_against_learns_separable_domains(name: str) -> None:
    net = network("cnn")
    term = begun(method(name, weight=0.0), net)
    source, target = (drawn(50, 84, seed=i).float() + shift for i, shift in enumerate((0.2, -0.2)))
    optimizer = torch.optim.Adam(term.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        term(step_on(net, source, target)).backward()
        optimizer.step()
    shown = source + 0.5 if name == "adda" else source  # the start's features
    assert discriminator_accuracy(term, shown, target) > 0.9


def test_features_that_learn_against_it_become_the_same_in_both_domains() -> None:
    net = network("cnn")
    term = begun(method("dann", gamma=None), net)
    shift = torch.full((84,), 1.0, requires_grad=True)  # of the target, all that the features can learn
    optimizer = torch.optim.Adam([{"params": [shift], "lr": 0.02}, {"params": term.parameters(), "lr": 1e-3}])
    for seed in range(300):
        optimizer.zero_grad()
        source, target = (drawn(64, 84, seed=2 * seed + i).float() for i in (0, 1))
        term(step_on(net, source, target + shift)).backward()
        optimizer.step()
    assert float(shift.detach().abs().mean()) < 0.5


def test_a_critic_learns_the_distance() -> None:
    """Two points a distance of 2 apart: the best critic of slope 1 tells them 2 apart."""
    net = network("cnn")
    term = begun(method("wdgrl", weight=0.0), net)
    source, target = torch.zeros(16, 84), torch.zeros(16, 84)
    source[:, 0] = 2.0
    optimizer = torch.optim.Adam(term.parameters(), lr=1e-3)
    for step in range(300):
        optimizer.zero_grad()
        torch.manual_seed(step)
        term(step_on(net, source, target)).backward()
        optimizer.step()
    with torch.no_grad():
        distance = term.discriminator(source).mean() - term.discriminator(target).mean()
    assert float(distance) == pytest.approx(2.0, abs=0.25)


def test_the_critics_penalty_leaves_the_features_alone() -> None:
    net = double_network()
    found = []
    for penalty in (0.0, 10.0):
        source, target = leaves()
        torch.manual_seed(0)
        begun(method("wdgrl", weight=1.0, penalty=penalty), net)(step_on(net, source, target)).backward()
        found.append(source.grad)
    assert torch.equal(*found)


def test_adda_inverts_labels_and_fits_the_target_alone() -> None:
    net = double_network()
    term = begun(method("adda", weight=0.5, gamma=None), net)
    source, target = leaves()
    term(step_on(net, source, target)).backward()
    assert source.grad is None
    expected = torch.autograd.grad(0.5 * fooling_loss(term.discriminator, target), target)
    torch.testing.assert_close(target.grad, *expected)
    own = [parameter.grad.clone() for parameter in term.parameters()]
    term.zero_grad()
    domain_loss(term.discriminator(source.detach() + 0.5), term.discriminator(target.detach())).backward()
    for one, other in zip(own, term.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad)


def test_a_discriminator_has_one_logit_without_bounds() -> None:
    torch.manual_seed(0)
    logits = Discriminator(3, 16)(1e3 * drawn(8, 3).float())
    assert logits.shape == (8,)
    assert (logits.abs() > 1).any()
