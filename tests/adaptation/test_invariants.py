"""What holds of every method that compares the features of two domains, whatever the tensors."""

import math
from typing import Any

import pytest
import torch
from builders import network, strategy
from hypothesis import given
from hypothesis import strategies as st
from paired_steps import NUM_FEATURES, begun, double_network, drawn, leaves, method, step_on
from torch import Tensor

from graft.adaptation.bsp import spectral_penalty
from graft.adaptation.coral import coral, covariance
from graft.adaptation.mcd import classifier_discrepancy
from graft.adaptation.mdd import disagreement
from graft.adaptation.mmd import mmd, multi_kernel
from graft.adaptation.ramps import Ramp
from graft.adaptation.swd import sliced_discrepancy
from graft.errors import UserError

LEARN_BESIDE = ("adda", "cdan", "cdan_e", "dann", "mcd", "mdd", "swd", "wdgrl")
NAMES = (*LEARN_BESIDE, "afn", "bsp", "coral", "dan", "jan")
ON_FEATURES = tuple(name for name in NAMES if name != "jan")
SIZES = st.tuples(st.integers(2, 7), st.integers(2, 7), st.integers(1, 5), st.integers(0, 10_000))

EXTREME: dict[str, tuple[Tensor, Tensor]] = {
    "constant": (torch.ones(6, NUM_FEATURES), torch.ones(4, NUM_FEATURES)),
    "large constant": (torch.full((6, NUM_FEATURES), 1234.5), torch.full((4, NUM_FEATURES), 1234.5)),
    "dead": (torch.zeros(6, NUM_FEATURES), torch.zeros(4, NUM_FEATURES)),
    "rank one": (torch.arange(6.0)[:, None].repeat(1, NUM_FEATURES), torch.ones(4, NUM_FEATURES)),
    "large": (1e4 * drawn(6, NUM_FEATURES).float(), -1e4 * drawn(4, NUM_FEATURES, seed=1).float()),
    "half": (30 * drawn(6, NUM_FEATURES).half(), 30 * drawn(4, NUM_FEATURES, seed=1).half()),
    "bfloat16": (drawn(6, NUM_FEATURES).bfloat16(), drawn(4, NUM_FEATURES, seed=1).bfloat16()),
    "more of the target": (drawn(2, NUM_FEATURES).float(), drawn(9, NUM_FEATURES, seed=1).float()),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", EXTREME)
def test_value_and_gradients_are_finite(name: str, kind: str) -> None:
    net = network("cnn")
    term, (source, target) = begun(method(name), net), (f.clone().requires_grad_() for f in EXTREME[kind])
    loss = term(step_on(net, source, target))
    loss.backward()
    assert torch.isfinite(loss)
    assert loss.dtype == torch.float32
    for features in (source, target):
        assert features.grad is None or torch.isfinite(features.grad).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in term.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_and_what_is_learned_is_in_the_state(name: str) -> None:
    net, features = double_network(), leaves()
    losses = []
    for _ in range(2):
        term = begun(method(name), net)
        torch.manual_seed(7)
        losses.append(term(step_on(net, *features)).item())
    assert losses[0] == losses[1]
    assert set(term.state_dict()) == {key for key, _ in term.named_parameters()}
    assert bool(term.state_dict()) == (name in LEARN_BESIDE)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_zero_leaves_the_target_features_alone(name: str) -> None:
    net, (source, target) = double_network(), leaves()
    begun(method(name, weight=0.0), net)(step_on(net, source, target)).backward()
    assert not target.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_step_against_the_gradient_changes_both_domains(name: str) -> None:
    net, (source, target) = double_network(), leaves()
    begun(method(name), net)(step_on(net, source, target)).backward()
    assert target.grad.any()
    assert (source.grad is None or not source.grad.any()) == (name == "adda")  # which fits the target to the source


def test_projections_of_a_large_product_are_in_no_checkpoint() -> None:
    net = network("cnn", num_classes=60)
    term = begun(method("cdan"), net)
    assert term.product.projections is not None
    assert all(key.startswith("discriminator.") for key in term.state_dict())
    assert torch.equal(term.product.projections["f"], begun(method("cdan"), net).product.projections["f"])
    assert torch.isfinite(term(step_on(net, *leaves(dtype=torch.float32))))


@pytest.mark.parametrize("name", ON_FEATURES)
def test_a_linear_probe_is_refused(name: str) -> None:
    net = network("cnn")
    with pytest.raises(UserError, match="only the head"):
        method(name).check(net, strategy("linear_probe").resolve(net, 1))


REFUSED = [
    *[(name, {"weight": -1.0}, "expected 0 or more") for name in NAMES],
    *[(name, {"gamma": 0.0}, "above 0") for name in NAMES],
    *[(name, {"num_hidden": 0}, "num_hidden=0; expected 1 or more") for name in ("adda", "cdan", "dann", "wdgrl")],
    ("swd", {"num_projections": 0}, "expected 1 or more"),
    ("bsp", {"num_values": 0}, "expected 1 or more"),
    ("mdd", {"margin": 0.0}, "above 0"),
    ("mdd", {"margin": math.inf}, "above 0"),
    ("afn", {"increase": 0.0}, "above 0"),
    ("afn", {"radius": 0.0}, "null for stepwise"),
    ("wdgrl", {"penalty": -1.0}, "expected 0 or more"),
]


@pytest.mark.parametrize(("name", "settings", "reason"), REFUSED)
def test_settings_that_make_no_sense_are_refused(name: str, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        method(name, **settings)


def test_mdd_needs_another_class() -> None:
    net = network("cnn", num_classes=1)
    with pytest.raises(UserError, match="one class"):
        method("mdd").check(net, strategy("fine_tune").resolve(net, 1))


# The ramp


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.0), (0.1, 0.4621171573), (0.5, 0.9866142982), (1.0, 0.9999092043)]
)
def test_the_ramp_of_domain_adversarial_training(progress: float, expected: float) -> None:
    assert Ramp(1.0, 10.0)(progress) == pytest.approx(expected, abs=1e-9)
    assert Ramp(0.3, 10.0)(progress) == pytest.approx(0.3 * expected, abs=1e-9)
    assert Ramp(0.3, None)(progress) == 0.3


# CORAL


def test_coral_of_two_features_by_hand() -> None:
    source = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # covariance [[2, 0], [0, 0]]
    target = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # covariance [[2, 2], [2, 2]]
    assert float(coral(source, target)) == pytest.approx((2**2 + 2**2 + 2**2) / (4 * 2**2))


@given(SIZES)
def test_coral_does_not_see_where_the_features_lie(sizes: tuple[int, int, int, int]) -> None:
    source, target = drawn(sizes[0], sizes[2], seed=sizes[3]), drawn(sizes[1], sizes[2], seed=sizes[3] + 1)
    assert float(coral(source + 3, target - 5)) == pytest.approx(float(coral(source, target)), rel=1e-9, abs=1e-12)
    assert float(coral(source, source)) == 0


def test_coral_needs_two_samples() -> None:
    with pytest.raises(UserError, match="needs 2 or more"):
        coral(torch.ones(1, 3), torch.ones(4, 3))


def test_covariances_are_of_single_precision_inside() -> None:
    features = 300 * drawn(8, 3)  # whose squares are beyond the range of half precision
    found = covariance(features.half())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.cov(features.half().float().T))


# Maximum mean discrepancy


@given(SIZES)
def test_mmd_is_nothing_of_equal_samples_and_never_below(sizes: tuple[int, int, int, int]) -> None:
    source, target = drawn(sizes[0], sizes[2], seed=sizes[3]), drawn(sizes[1], sizes[2], seed=sizes[3] + 1)
    assert float(mmd(multi_kernel(torch.cat([source, source])), len(source))) == pytest.approx(0.0, abs=1e-12)
    found = float(mmd(multi_kernel(torch.cat([source, target])), len(source)))
    assert found >= -1e-12
    moved = float(mmd(multi_kernel(7 * torch.cat([source, target]) + 2), len(source)))  # bandwidths follow the scale
    assert moved == pytest.approx(found, rel=1e-8, abs=1e-10)


def test_mmd_tells_a_shift_from_chance() -> None:
    """Against the distribution of the same under permutations of the domains."""

    def discrepancy(x: Tensor) -> float:
        return float(mmd(multi_kernel(x), 30))

    same, shifted = drawn(50, 4, seed=3), torch.cat([drawn(30, 4), drawn(20, 4, seed=1) + 1])
    generator = torch.Generator().manual_seed(0)
    for x, larger in ((same, False), (shifted, True)):
        null = sorted(discrepancy(x[torch.randperm(50, generator=generator)]) for _ in range(100))
        assert (discrepancy(x) > null[94]) == larger


def test_the_bandwidth_takes_no_gradient() -> None:
    x = drawn(6, 3).requires_grad_()
    multi_kernel(x).sum().backward()
    with torch.no_grad():
        distances = torch.cdist(x, x).square()
        bandwidth = distances.mean()
        factors = [0.25, 0.5, 1.0, 2.0, 4.0]
        slopes = sum(-torch.exp(-distances / (2 * c * bandwidth)) / (2 * c * bandwidth) for c in factors) / 5
        expected = 4 * (slopes[:, :, None] * (x[:, None] - x[None, :])).sum(dim=1)
    torch.testing.assert_close(x.grad, expected)


def test_the_probability_kernel_makes_jan_see_what_dan_does_not() -> None:
    net, features = double_network(), leaves()[0].detach()
    step = step_on(net, features, features)
    flipped = step.target.outputs._replace(logits=step.target.outputs.logits.flip(1) * 50)
    step = step._replace(target=step.target._replace(outputs=flipped))
    assert float(begun(method("dan"), net)(step).detach()) == pytest.approx(0.0, abs=1e-12)
    assert float(begun(method("jan"), net)(step).detach()) > 0.01


# Spectra


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_the_gradient_of_bsp(shape: tuple[int, int]) -> None:
    assert torch.autograd.gradcheck(spectral_penalty, (drawn(*shape).requires_grad_(), 2))


@given(SIZES)
def test_rotated_features_have_the_same_largest_values(sizes: tuple[int, int, int, int]) -> None:
    f = drawn(sizes[0], sizes[1], seed=sizes[3])
    rotation, _ = torch.linalg.qr(drawn(sizes[1], sizes[1], seed=sizes[3] + 1))
    torch.testing.assert_close(spectral_penalty(f @ rotation, sizes[2]), spectral_penalty(f, sizes[2]))
    assert float(spectral_penalty(f, 99)) == pytest.approx(float(f.square().sum()))


# Two classifiers


@given(SIZES)
def test_discrepancies_are_nothing_where_both_say_the_same(sizes: tuple[int, int, int, int]) -> None:
    p, q = (drawn(sizes[0], sizes[1], seed=sizes[3] + i).softmax(dim=1) for i in (0, 1))
    for discrepancy in (classifier_discrepancy, lambda a, b: sliced_discrepancy(a, b, 16)):
        assert float(discrepancy(p, p)) == 0
        assert float(discrepancy(p, q)) > 0


def test_the_adversary_of_mdd_stays_finite_where_it_is_sure() -> None:
    logits = torch.tensor([[1e4, 0.0, -5.0]], requires_grad=True)
    loss = disagreement(logits, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4, rel=1e-3)
    assert logits.grad[0, 0] == pytest.approx(1.0)
