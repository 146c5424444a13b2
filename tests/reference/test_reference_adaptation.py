"""Methods of adaptation against NumPy in float64, each computed from its paper's formula in another way."""

import numpy as np
import pytest
import torch
from paired_steps import begun, double_network, leaves, method, step_on
from scipy.optimize import linear_sum_assignment
from scipy.special import expit, log_softmax, softmax
from torch import Tensor, nn

from graft.adaptation.adda import fooling_loss
from graft.adaptation.afn import hard_norm, stepwise_norm
from graft.adaptation.bsp import spectral_penalty
from graft.adaptation.cdan import LARGEST, MultilinearMap, entropy_weights
from graft.adaptation.coral import coral
from graft.adaptation.discriminator import Discriminator, domain_loss
from graft.adaptation.jan import joint_kernel
from graft.adaptation.mcd import classifier_discrepancy
from graft.adaptation.mdd import margin_disparity
from graft.adaptation.mmd import mmd, multi_kernel
from graft.adaptation.swd import sliced_wasserstein
from graft.adaptation.wdgrl import gradient_penalty, penalised_points
from graft.objectives.supervised import Outputs

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


def tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values))


def head_of(values: np.ndarray, linear: nn.Linear) -> np.ndarray:
    return values @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()


def discriminated(values: np.ndarray, discriminator: Discriminator) -> np.ndarray:
    """Its logits, layer by layer."""
    hidden = np.maximum(head_of(values, discriminator.hidden1), 0)
    hidden = np.maximum(head_of(hidden, discriminator.hidden2), 0)
    return head_of(hidden, discriminator.output)[:, 0]


def domain_entropy(source: np.ndarray, target: np.ndarray) -> float:
    """Of logits, from probabilities."""
    return (-np.log(expit(source)).mean() - np.log(1 - expit(target)).mean()) / 2


def test_coral() -> None:
    source, target = normal(7, 5), normal(4, 5) * 2
    difference = np.cov(source.T) - np.cov(target.T)
    expected = np.trace(difference @ difference.T) / (4 * 5**2)
    assert float(coral(tensor(source), tensor(target))) == pytest.approx(expected, rel=1e-10)


def multi_kernel_by_pairs(x: np.ndarray) -> np.ndarray:
    distances = np.array([[np.linalg.norm(a - b) ** 2 for b in x] for a in x])
    return np.mean([np.exp(-distances / (2 * 2.0**power * distances.mean())) for power in range(-2, 3)], axis=0)


def signed_mean(kernel: np.ndarray, num_source: int) -> float:
    """MMD as the squared norm of the difference of two mean embeddings: w' K w."""
    num_target = len(kernel) - num_source
    w = np.r_[np.full(num_source, 1 / num_source), np.full(num_target, -1 / num_target)]
    return float(w @ kernel @ w)


@pytest.mark.parametrize(("num_source", "num_target"), [(6, 6), (7, 3), (1, 5)])
def test_multi_kernel_mmd(num_source: int, num_target: int) -> None:
    x = np.r_[normal(num_source, 4), normal(num_target, 4) + 1]
    expected = signed_mean(multi_kernel_by_pairs(x), num_source)
    assert float(mmd(multi_kernel(tensor(x)), num_source)) == pytest.approx(expected, rel=1e-9)


def test_jans_kernel_is_a_product() -> None:
    source, target = (normal(5, 3), normal(5, 4)), (normal(2, 3), normal(2, 4) + 1)
    p = softmax(np.r_[source[0], target[0]], axis=1)
    by_class = np.array([[np.exp(-np.square(a - b).sum() / 1.68) for b in p] for a in p])
    expected = multi_kernel_by_pairs(np.r_[source[1], target[1]]) * by_class
    found = joint_kernel(Outputs(*map(tensor, source)), Outputs(*map(tensor, target)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    assert float(mmd(found, 5)) == pytest.approx(signed_mean(expected, 5), rel=1e-9)


def test_domain_loss() -> None:
    source, target = 3 * normal(6), 3 * normal(4)
    assert float(domain_loss(tensor(source), tensor(target))) == pytest.approx(domain_entropy(source, target), rel=1e-9)


def test_dann() -> None:
    net = double_network()
    term, (source, target) = begun(method("dann"), net), leaves()
    outputs = (discriminated(features.detach().numpy(), term.discriminator) for features in (source, target))
    assert term(step_on(net, source, target)).item() == pytest.approx(domain_entropy(*outputs), rel=1e-9)


@pytest.mark.parametrize("name", ["cdan", "cdan_e"])
def test_cdan(name: str) -> None:
    net = double_network()
    term, both = begun(method(name), net), leaves()
    losses = []
    for i, features in enumerate(values.detach().numpy() for values in both):
        p = softmax(head_of(features, net.head.linear), axis=1)
        logits = discriminated(np.einsum("nd,nk->ndk", features, p).reshape(len(p), -1), term.discriminator)
        weights = 1 + np.exp((p * np.log(p)).sum(axis=1)) if name == "cdan_e" else np.ones(len(p))
        losses.append(-np.log(expit(logits) if i == 0 else 1 - expit(logits)) @ weights / weights.sum())
    assert term(step_on(net, *both)).item() == pytest.approx(np.mean(losses), rel=1e-9)


def test_entropy_weights_lie_between_one_and_two_before_they_are_scaled() -> None:
    logits = np.array([[50.0, 0, 0], [0, 0, 0]])
    raw = np.array([2.0, 1 + 1 / 3])
    np.testing.assert_allclose(entropy_weights(tensor(logits), 1.0).numpy(), raw / raw.mean(), rtol=1e-12)


def test_random_projections_keep_inner_products() -> None:
    d, k = 500, 10
    assert d * k > LARGEST
    product = MultilinearMap(d, k, seed=0)
    f, g = normal(4, d), softmax(normal(4, k), axis=1)
    projections = {name: projection.double().numpy() for name, projection in product.projections.items()}
    expected = (f @ projections["f"]) * (g @ projections["g"]) / np.sqrt(1024)
    seen = product(tensor(f), tensor(g)).numpy()
    assert seen.shape == (4, product.num_outputs) == (4, 1024)
    np.testing.assert_allclose(seen, expected, rtol=1e-3, atol=1e-4)
    lengths = (np.square(f).sum(axis=1) * np.square(g).sum(axis=1)) ** 0.5
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), lengths, rtol=0.3)


def test_classifier_discrepancy() -> None:
    first, second = softmax(normal(5, 3), axis=1), softmax(normal(5, 3), axis=1)
    expected = sum(abs(first[i, j] - second[i, j]) for i in range(5) for j in range(3)) / 15
    assert float(classifier_discrepancy(tensor(first), tensor(second))) == pytest.approx(expected, rel=1e-12)


def test_mcd() -> None:
    net = double_network()
    term, (source, target) = begun(method("mcd"), net), leaves()
    heads = net.head.linear, term.second.linear
    p, q = (softmax(head_of(target.detach().numpy(), head), axis=1) for head in heads)
    log_p = log_softmax(head_of(source.detach().numpy(), heads[1]), axis=1)
    expected = -np.mean([log_p[i, i % 3] for i in range(len(log_p))]) - np.abs(p - q).mean()
    assert term(step_on(net, source, target)).item() == pytest.approx(expected, rel=1e-9)


def test_sliced_wasserstein_is_the_least_cost_of_matching_along_each_direction() -> None:
    first, second, directions = normal(6, 3), normal(6, 3), normal(3, 9)
    directions /= np.linalg.norm(directions, axis=0)
    costs = []
    for direction in directions.T:
        cost = np.square((first @ direction)[:, None] - (second @ direction)[None, :])
        costs.append(cost[linear_sum_assignment(cost)].mean())
    found = sliced_wasserstein(tensor(first), tensor(second), tensor(directions))
    assert float(found) == pytest.approx(np.mean(costs), rel=1e-9)


@pytest.mark.parametrize("margin", [1.0, 4.0])
def test_margin_disparity(margin: float) -> None:
    source, target = normal(5, 3), normal(4, 3)
    source_y, target_y = np.array([0, 1, 2, 0, 1]), np.array([2, 2, 0, 1])
    p, q = softmax(source, axis=1), softmax(target, axis=1)
    expected = -margin * np.log(p[np.arange(5), source_y]).mean() - np.log(1 - q[np.arange(4), target_y]).mean()
    found = margin_disparity(tensor(source), tensor(source_y), tensor(target), tensor(target_y), margin)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_mdds_adversary_is_given_the_heads_classes() -> None:
    net = double_network()
    term, both = begun(method("mdd"), net), leaves()
    source, target = (features.detach().numpy() for features in both)
    y, target_y = (head_of(features, net.head.linear).argmax(axis=1) for features in (source, target))
    p, q = (softmax(head_of(features, term.adversary.linear), axis=1) for features in (source, target))
    expected = -4 * np.log(p[np.arange(6), y]).mean() - np.log(1 - q[np.arange(4), target_y]).mean()
    assert term(step_on(net, *both)).item() == pytest.approx(expected, rel=1e-9)


def test_gradient_penalty_by_differences() -> None:
    torch.manual_seed(0)
    critic, points, small = Discriminator(3, 8).double(), normal(5, 3), 1e-6
    slopes = np.stack(
        [
            (discriminated(points + move, critic) - discriminated(points - move, critic)) / (2 * small)
            for move in small * np.eye(3)
        ],
        axis=1,
    )
    expected = np.mean((np.sqrt((slopes**2).sum(axis=1)) - 1) ** 2)
    assert gradient_penalty(critic, tensor(points)).item() == pytest.approx(expected, rel=1e-6)


def test_wdgrl() -> None:
    net = double_network()
    term, both = begun(method("wdgrl"), net), leaves()
    torch.manual_seed(3)
    found = term(step_on(net, *both)).item()
    torch.manual_seed(3)
    shares = torch.rand(4, 1, dtype=torch.float64).numpy()
    source, target = (features.detach().numpy() for features in both)
    points = np.r_[source, target, shares * source[:4] + (1 - shares) * target]
    distance = discriminated(source, term.discriminator).mean() - discriminated(target, term.discriminator).mean()
    penalty = gradient_penalty(term.discriminator, tensor(points)).item()
    assert found == pytest.approx(10 * penalty - distance, rel=1e-9)
    assert penalised_points(*both).shape == points.shape


def test_stepwise_norm() -> None:
    f = tensor(normal(5, 4)).requires_grad_()
    loss = stepwise_norm(f, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0.25, rel=1e-12)
    values = f.detach().numpy()
    expected = -2 * 0.5 * values / np.linalg.norm(values, axis=1, keepdims=True) / 5
    np.testing.assert_allclose(f.grad.numpy(), expected, rtol=1e-10)


def test_hard_norm() -> None:
    f = normal(5, 4)
    expected = (np.mean([np.sqrt(row @ row) for row in f]) - 25) ** 2
    assert float(hard_norm(tensor(f), 25.0)) == pytest.approx(expected, rel=1e-12)


def test_stepwise_afn_counts_both_domains() -> None:
    net = double_network()
    term = begun(method("afn", weight=0.3, radius=None), net)
    assert term(step_on(net, *leaves())).item() == pytest.approx(0.3 * 2, rel=1e-12)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (1, 4)])
@pytest.mark.parametrize("num_values", [1, 3])
def test_bsp_is_the_largest_eigenvalues_of_the_gram_matrix(shape: tuple[int, int], num_values: int) -> None:
    f = normal(*shape)
    expected = np.sort(np.linalg.eigvalsh(f @ f.T if shape[0] <= shape[1] else f.T @ f))[::-1][:num_values].sum()
    assert float(spectral_penalty(tensor(f), num_values)) == pytest.approx(expected, rel=1e-9)


def test_adda() -> None:
    net = double_network()
    term, (source, target) = begun(method("adda", weight=0.5, gamma=None), net), leaves()
    step = step_on(net, source, target)
    assert step.start is not None
    start = discriminated(step.start.features.numpy(), term.discriminator)
    logits = discriminated(target.detach().numpy(), term.discriminator)
    fooled = -np.log(expit(logits)).mean()
    assert fooling_loss(term.discriminator, target).item() == pytest.approx(fooled, rel=1e-9)
    assert term(step).item() == pytest.approx(domain_entropy(start, logits) + 0.5 * fooled, rel=1e-9)


@pytest.mark.parametrize("name", ["dan", "jan", "afn", "bsp", "coral"])
def test_terms_that_learn_nothing_are_their_functions_times_the_weight(name: str) -> None:
    net = double_network()
    source, target = leaves()
    step = step_on(net, source, target)
    both = torch.cat([source, target])
    expected = {
        "dan": lambda: mmd(multi_kernel(both), 6),
        "jan": lambda: mmd(joint_kernel(step.outputs, step.required_target().outputs), 6),
        "afn": lambda: hard_norm(source) + hard_norm(target),
        "bsp": lambda: spectral_penalty(source) + spectral_penalty(target),
        "coral": lambda: coral(source, target),
    }[name]()
    term = begun(method(name, weight=0.3, gamma=None), net)
    assert term(step).item() == pytest.approx(0.3 * expected.item(), rel=1e-12)
