"""Adaptation by predictions, neighbours and averages against NumPy in float64, each as its paper writes it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from torch import nn

from graft.adaptation.atdoc import ATDOC
from graft.adaptation.base import Adaptation
from graft.adaptation.bnm import BNM
from graft.adaptation.entropy import MinimumEntropy
from graft.adaptation.fixmatch import FixMatch
from graft.adaptation.mcc import MCC
from graft.adaptation.mean_teacher import MeanTeacher
from graft.adaptation.mme import MME
from graft.adaptation.nrc import NRC
from graft.adaptation.reversal import reverse
from graft.adaptation.selection import (
    MOST_AXES,
    NUM_FOLDS,
    STRENGTHS,
    Evidence,
    importance_weights,
    label_free_scores,
    leading_axes,
    reverse_accuracy,
    soft_neighbourhood_density,
)
from graft.adaptation.self_training import SelfTraining
from graft.adaptation.shot import SHOT, centroid_labels
from graft.adaptation.shot_im import SHOTIM
from graft.adaptation.source_only import SourceOnly
from graft.batch import UnlabelledBatch
from graft.data.preprocessing import Preprocessing
from graft.features import Inference
from graft.models.backbones.base import Overrides, SequentialBackbone
from graft.models.heads.linear import LinearHead
from graft.models.heads.ridge import STRENGTHS as RIDGE_STRENGTHS
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network
from graft.objectives.supervised import Outputs
from graft.probes import folds_of
from graft.regularisers.base import Beginning, Step, Term, Trace, Unlabelled

RNG = np.random.default_rng(0)
NUM_SAMPLES, NUM_FEATURES, NUM_CLASSES = 12, 5, 3


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


class Flat(SequentialBackbone):
    """Features W x + b of flattened images."""

    def __init__(self) -> None:
        layers = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 3, NUM_FEATURES))
        super().__init__({"only": layers}, NUM_FEATURES, Preprocessing(size=3, mean=(0.5,), std=(0.5,)), Overrides())


def small_network() -> Network:
    torch.manual_seed(0)
    head = LinearHead(NUM_FEATURES, NUM_CLASSES)
    nn.init.zeros_(head.linear.bias)
    return Network(Flat(), IdentityMapping(NUM_FEATURES), head).double()


def begun(settings: Adaptation, network: Network, images: np.ndarray | None = None) -> Term:
    """A term that begins with a target of `NUM_SAMPLES` images, of which it is given a batch where it asks for them."""
    batch = None if images is None else UnlabelledBatch(torch.from_numpy(images), torch.arange(NUM_SAMPLES))
    target: Any = SimpleNamespace(
        pool=range(NUM_SAMPLES),
        view=SimpleNamespace(evaluate=lambda x: x),
        unlabelled_loader=lambda split, shuffle, shared: [batch],
    )
    domain: Any = None
    term = settings.begin(Beginning(network, domain, None, Inference(torch.device("cpu")), seed=0, target=target))
    assert term is not None
    return term.double()


def step_of(
    network: Network, target: Outputs, positions: list[int], second: np.ndarray | None = None, progress: float = 0.5
) -> Step:
    x = torch.zeros(len(positions), 2, 3, 3, dtype=torch.float64)
    view = None if second is None else torch.from_numpy(second)
    nothing = torch.zeros(0, NUM_FEATURES, dtype=torch.float64)
    source = Outputs(torch.zeros(0, NUM_CLASSES, dtype=torch.float64), nothing)
    unlabelled = Unlabelled(target, torch.tensor(positions), x, view)
    y, trace = torch.zeros(0, dtype=torch.int64), Trace(nothing, nothing, {})
    return Step(network, y, source, trace, None, target=unlabelled, progress=progress)


def value(settings: Adaptation, logits: np.ndarray, features: np.ndarray | None = None) -> float:
    """What the term of a method without memory adds for one batch."""
    network = small_network()
    features = normal(len(logits), NUM_FEATURES) if features is None else features
    outputs = Outputs(torch.from_numpy(logits), torch.from_numpy(features))
    return begun(settings, network)(step_of(network, outputs, list(range(len(logits))))).item()


def ramp(gamma: float, progress: float = 0.5) -> float:
    return 2 / (1 + np.exp(-gamma * progress)) - 1


def test_source_only_has_no_term() -> None:
    beginning: Any = None
    assert SourceOnly().begin(beginning) is None


@pytest.mark.parametrize("n", [1, 7])
def test_minimum_entropy(n: int) -> None:
    logits = normal(n, NUM_CLASSES)
    expected = 0.1 * ramp(10) * np.mean([entropy(softmax(row)) for row in logits])
    assert value(MinimumEntropy(), logits) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("n", [1, 7])
def test_shot_im(n: int) -> None:
    p = softmax(logits := normal(n, NUM_CLASSES), axis=1)
    expected = np.mean([entropy(row) for row in p]) - entropy(p.mean(axis=0))
    assert value(SHOTIM(), logits) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("n", [1, 7])
def test_mcc_by_its_confusion_matrix(n: int) -> None:
    logits = 3 * normal(n, NUM_CLASSES)
    y = softmax(logits / 2.5, axis=1)
    certainty = np.array([1 + np.exp(-entropy(row)) for row in y])
    correlation = y.T @ np.diag(n * certainty / certainty.sum()) @ y
    confusion = correlation / correlation.sum(axis=1, keepdims=True)
    expected = (confusion.sum() - np.trace(confusion)) / NUM_CLASSES
    assert value(MCC(), logits) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_bnm_by_the_eigenvalues_of_the_gram_matrix(n: int) -> None:
    p = softmax(logits := normal(n, NUM_CLASSES), axis=1)
    expected = -np.sqrt(np.linalg.eigvalsh(p.T @ p).clip(min=0)).sum() / n
    assert value(BNM(), logits) == pytest.approx(expected, abs=1e-6)


def cosine_labels(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    used = np.flatnonzero(weights.sum(axis=0))
    centroids = weights.T[used] @ features / weights.sum(axis=0)[used, None]
    return used[cdist(features, centroids, "cosine").argmin(axis=1)]


def test_shots_labels_by_weighted_centroids() -> None:
    features, p = normal(40, 6) + 1, softmax(2 * normal(40, 5), axis=1)
    first = cosine_labels(features, p)
    expected = cosine_labels(features, np.eye(5)[first])
    found = centroid_labels(torch.from_numpy(features), torch.from_numpy(p))
    assert (expected != first).any()
    np.testing.assert_array_equal(found.numpy(), expected)


def test_a_class_that_no_sample_is_labelled_with_gets_none() -> None:
    features = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    p = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7]])
    found = centroid_labels(torch.from_numpy(features), torch.from_numpy(p))
    np.testing.assert_array_equal(found.numpy(), [0, 0, 2])


def batches() -> list[list[int]]:
    """Positions of three passes over the samples, in batches of two sizes."""
    passes = [RNG.permutation(NUM_SAMPLES) for _ in range(3)]
    return [some.tolist() for order in passes for some in np.split(order, [5])]


def test_shot_step_by_step() -> None:
    network = small_network()
    images = normal(NUM_SAMPLES, 2, 3, 3)
    term = begun(SHOT(weight=0.7, pseudo_weight=0.3), network, images)
    seen = set()
    for number, positions in enumerate(batches()):
        if number in (0, 2, 4):  # an epoch begins
            weight, bias = (parameter.detach().numpy() for parameter in network.backbone.parameters())
            features = images.reshape(NUM_SAMPLES, -1) @ weight.T + bias
            p = softmax(features @ network.head.linear.weight.detach().numpy().T, axis=1)
            of_all = np.append(features, np.ones((NUM_SAMPLES, 1)), axis=1)
            of_all /= np.linalg.norm(of_all, axis=1, keepdims=True)
            labels = cosine_labels(of_all, np.eye(NUM_CLASSES)[cosine_labels(of_all, p)])
            seen.add(tuple(labels))
        logits = 2 * normal(len(positions), NUM_CLASSES)
        p = softmax(logits, axis=1)
        expected = np.mean([entropy(row) for row in p]) - entropy(p.mean(axis=0))
        expected += 0.3 * np.mean([-np.log(row[labels[i]]) for row, i in zip(p, positions, strict=True)])
        outputs = Outputs(torch.from_numpy(logits), torch.from_numpy(normal(len(positions), NUM_FEATURES)))
        found = term(step_of(network, outputs, positions))
        assert found.item() == pytest.approx(0.7 * expected, abs=1e-10)
        with torch.no_grad():
            for parameter in network.backbone.parameters():
                parameter += torch.from_numpy(0.3 * normal(*parameter.shape))
    assert len(seen) == 3


@pytest.mark.parametrize(("num_processes", "expected"), [(1, [True, False, True]), (2, [True, True, True])])
def test_shot_labels_again_once_all_processes_together_saw_all_images(num_processes: int, expected: list[bool]) -> None:
    network = small_network()
    term = begun(SHOT(), network, normal(NUM_SAMPLES, 2, 3, 3))
    half = list(range(-(-NUM_SAMPLES // 2)))
    outputs = Outputs(torch.zeros(len(half), NUM_CLASSES), torch.zeros(len(half), NUM_FEATURES))
    labelled = []
    for _ in expected:
        term.labels.fill_(0)
        term(step_of(network, outputs, half)._replace(num_processes=num_processes))
        labelled.append(bool(term.labels.any()))
    assert labelled == expected


def nearest(bank: dict[int, tuple[np.ndarray, np.ndarray]], feature: np.ndarray, own: int, num: int) -> list[int]:
    others = [i for i in bank if i != own]
    cosines = {i: float(bank[i][0] @ feature / np.linalg.norm(feature)) for i in others}
    return sorted(others, key=lambda i: -cosines[i])[:num]


def test_atdoc_step_by_step() -> None:
    network = small_network()
    term = begun(ATDOC(weight=0.2, gamma=None, num_neighbours=3), network)
    bank: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for positions in batches():
        logits, features = 2 * normal(len(positions), NUM_CLASSES), normal(len(positions), NUM_FEATURES)
        p = softmax(logits, axis=1)
        losses, weights = [], []
        for row, f, i in zip(p, features, positions, strict=True):
            votes = sum((bank[j][1] for j in nearest(bank, f, i, 3)), np.zeros(NUM_CLASSES)) / 3
            losses.append(-np.log(row[votes.argmax()]))
            weights.append(votes.max())
        expected = 0.2 * np.average(losses, weights=weights) if bank else 0.0
        found = term(step_of(network, Outputs(torch.from_numpy(logits), torch.from_numpy(features)), positions))
        assert found.item() == pytest.approx(expected, abs=1e-10)
        sharp = p**2 / (p**2).sum(axis=0)
        bank |= {i: (f / np.linalg.norm(f), row) for i, f, row in zip(positions, features, sharp, strict=True)}


def test_nrc_step_by_step() -> None:
    network = small_network()
    term = begun(NRC(weight=0.5, num_neighbours=3, num_expanded=2), network)
    bank: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    lists: dict[int, list[int]] = {}
    for positions in batches():
        logits, features = 2 * normal(len(positions), NUM_CLASSES), normal(len(positions), NUM_FEATURES)
        p = softmax(logits, axis=1)
        bank |= {i: (f / np.linalg.norm(f), row) for i, f, row in zip(positions, features, p, strict=True)}
        lists |= {i: nearest(bank, f, i, 2) for i, f in zip(positions, features, strict=True)}
        agreements = []
        for row, f, i in zip(p, features, positions, strict=True):
            agreement = 0.0
            for j in nearest(bank, f, i, 3):
                theirs = lists[j]
                agreement += (1.0 if i in theirs else 0.1) * bank[j][1] @ row
                agreement += sum(0.1 * bank[m][1] @ row for m in theirs)
            agreements.append(agreement)
        expected = -0.5 * (np.mean(agreements) + entropy(p.mean(axis=0)))
        found = term(step_of(network, Outputs(torch.from_numpy(logits), torch.from_numpy(features)), positions))
        assert found.item() == pytest.approx(expected, abs=1e-10)


def confident(p: np.ndarray, guide: np.ndarray, threshold: float) -> float:
    losses = [-np.log(row[g.argmax()]) if g.max() >= threshold else 0.0 for row, g in zip(p, guide, strict=True)]
    return float(np.mean(losses))


def test_self_training() -> None:
    p = softmax(logits := 3 * normal(20, NUM_CLASSES), axis=1)
    assert 0 < (p.max(axis=1) >= 0.95).sum() < 20
    assert value(SelfTraining(), logits) == pytest.approx(ramp(10) * confident(p, p, 0.95), abs=1e-10)


def predicted(network: Network, x: np.ndarray) -> np.ndarray:
    w, b, v, c = (parameter.detach().numpy() for parameter in network.parameters())
    return softmax((x.reshape(len(x), -1) @ w.T + b) @ v.T + c, axis=1)


def test_fixmatch() -> None:
    network, second = small_network(), 3 * normal(20, 2, 3, 3)
    logits = 3 * normal(20, NUM_CLASSES)
    outputs = Outputs(torch.from_numpy(logits).requires_grad_(), torch.from_numpy(normal(20, NUM_FEATURES)))
    loss = begun(FixMatch(), network)(step_of(network, outputs, [0] * 20, second))
    expected = confident(predicted(network, second), softmax(logits, axis=1), 0.95)
    assert loss.item() == pytest.approx(expected, abs=1e-10)
    loss.backward()
    assert outputs.logits.grad is None  # the guide takes none
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_mean_teacher_step_by_step() -> None:
    network = small_network()
    term = begun(MeanTeacher(gamma=None, momentum=0.8), network)
    teacher = small_network()
    for _ in range(3):
        with torch.no_grad():  # a step of training
            for own, parameter in zip(teacher.parameters(), network.parameters(), strict=True):
                parameter += torch.from_numpy(0.3 * normal(*parameter.shape))
                own.copy_(0.8 * own + 0.2 * parameter)
        term.after_step(network, 1, 3)
        second, logits = normal(4, 2, 3, 3), normal(4, NUM_CLASSES)
        outputs = Outputs(torch.from_numpy(logits), torch.from_numpy(normal(4, NUM_FEATURES)))
        found = term(step_of(network, outputs, [0, 1, 2, 3], second))
        expected = 3.0 * np.mean((softmax(logits, axis=1) - predicted(teacher, second)) ** 2)
        assert found.item() == pytest.approx(expected, abs=1e-10)


def test_mme_raises_entropy_by_the_head_and_lowers_it_by_the_features() -> None:
    network, weight = small_network(), 0.1
    features = torch.from_numpy(normal(6, NUM_FEATURES)).requires_grad_()
    with torch.no_grad():
        logits = network.head(features)
    loss = begun(MME(weight=weight), network)(step_of(network, Outputs(logits, features), list(range(6))))
    p = softmax(logits.numpy(), axis=1)
    h = np.array([entropy(row) for row in p])
    assert loss.item() == pytest.approx(-weight * h.mean(), abs=1e-10)
    loss.backward()
    slope = -p * (np.log(p) + h[:, None]) / 6  # of the mean entropy, by the logits
    w = network.head.linear.weight
    np.testing.assert_allclose(w.grad.numpy(), -weight * slope.T @ features.detach().numpy(), atol=1e-10)
    np.testing.assert_allclose(features.grad.numpy(), weight * slope @ w.detach().numpy(), atol=1e-10)


def test_reversal_is_the_identity_with_another_gradient() -> None:
    x = torch.from_numpy(normal(3, 4)).requires_grad_()
    again = reverse(x, 0.3)
    assert torch.equal(again, x)
    gradient = torch.from_numpy(normal(3, 4))
    again.backward(gradient)
    assert torch.equal(x.grad, -0.3 * gradient)


def density(p: np.ndarray) -> float:
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    rows = []
    for i in range(len(p)):
        similarity = np.array([unit[i] @ unit[j] for j in range(len(p)) if j != i])
        rows.append(entropy(softmax(similarity / 0.05)))
    return float(np.mean(rows))


def test_soft_neighbourhood_density() -> None:
    logits = normal(300, 4)
    found = soft_neighbourhood_density(torch.from_numpy(logits))
    assert float(found) == pytest.approx(density(softmax(logits, axis=1)), abs=1e-8)


def weights_by_scikit_learn(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    features = np.concatenate([source, target])
    features = features / features.std(axis=0, ddof=1).mean()
    domains = np.repeat([0, 1], [len(source), len(target)])
    folds = folds_of(torch.from_numpy(domains), NUM_FOLDS).numpy()
    tried = {}
    for strength in STRENGTHS:
        p = np.empty(len(features))
        for fold in range(NUM_FOLDS):
            rest = folds != fold
            model = LogisticRegression(C=1 / (rest.sum() * strength), tol=1e-12, max_iter=100_000)
            p[~rest] = model.fit(features[rest], domains[rest]).predict_proba(features[~rest])[:, 1]
        tried[-np.mean(np.log(np.where(domains, p, 1 - p)))] = p[: len(source)]
    p = tried[min(tried)]
    return p / (1 - p) * len(source) / len(target)


def test_importance_weights() -> None:
    source, target = normal(40, 3), normal(60, 3) + np.array([0.5, 0, 0])
    found = importance_weights(torch.from_numpy(source), torch.from_numpy(target))
    np.testing.assert_allclose(found.numpy(), weights_by_scikit_learn(source, target), rtol=1e-4)


def ridge_by_leaving_out(x: np.ndarray, labels: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ridge on one-hot labels with an intercept, at the strength of the best predictions of samples left out."""
    y, centred = np.eye(k)[labels], x - x.mean(axis=0)
    scale = (np.linalg.svd(centred, compute_uv=False) ** 2).mean()

    def solved(rows: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
        means = x[rows].mean(axis=0), y[rows].mean(axis=0)
        a, b = x[rows] - means[0], y[rows] - means[1]
        w = np.linalg.solve(a.T @ a + strength * scale * np.eye(x.shape[1]), a.T @ b).T
        return w, means[1] - w @ means[0]

    def error(strength: float) -> float:
        heads = [solved(np.arange(len(x)) != i, strength) for i in range(len(x))]
        return float(np.mean([(y[i] - w @ x[i] - b) ** 2 for i, (w, b) in enumerate(heads)]))

    return solved(np.ones(len(x), dtype=bool), min(RIDGE_STRENGTHS, key=error))


def test_reverse_validation() -> None:
    y = np.arange(60) % 3
    centres = 2 * normal(3, 4)
    source, target = centres[y] + normal(60, 4), centres[y] + normal(60, 4) + 0.5
    for logits in (np.eye(3)[y], np.eye(3)[(y + (RNG.random(60) < 0.4)) % 3], np.eye(3)[(y + 1) % 3]):
        w, b = ridge_by_leaving_out(target, logits.argmax(axis=1), 3)
        expected = np.mean((source @ w.T + b).argmax(axis=1) == y)
        found = reverse_accuracy(*map(torch.from_numpy, (source, y, target, logits)))
        assert float(found) == pytest.approx(expected, abs=1e-12)


def test_leading_axes_keep_what_varies_most() -> None:
    spectrum = 0.7 ** np.arange(200)
    features = normal(150, 200) * spectrum + 3.0
    source, target = leading_axes(torch.from_numpy(features[:50]), torch.from_numpy(features[50:]))
    together = torch.cat([source, target]).numpy()
    assert together.shape == (150, MOST_AXES)
    centred = features - features.mean(axis=0)
    np.testing.assert_allclose(cdist(together, together), cdist(centred, centred), atol=1e-5)
    few = torch.from_numpy(features[:, :5])
    assert torch.equal(torch.cat(leading_axes(few[:50], few[50:])), few)


def test_every_score() -> None:
    k = 4
    y = np.arange(40) % k
    source = Outputs(torch.from_numpy(normal(40, k) + np.eye(k)[y]), torch.from_numpy(normal(40, 3)))
    target = Outputs(torch.from_numpy(normal(50, k)), torch.from_numpy(normal(50, 3) + 0.3))
    evidence = Evidence(target.logits, target.features, source.logits, source.features, torch.from_numpy(y))
    p = softmax(target.logits.numpy(), axis=1)
    wrong = (source.logits.numpy().argmax(axis=1) != y).astype(float)
    w = weights_by_scikit_learn(source.features.numpy(), target.features.numpy())
    eta = -np.cov(w * wrong, w)[0, 1] / np.var(w, ddof=1)
    head, bias = ridge_by_leaving_out(target.features.numpy(), p.argmax(axis=1), k)
    expected = {
        "source_val": 1 - wrong.mean(),
        "entropy": -np.mean([entropy(row) for row in p]),
        "information": entropy(p.mean(axis=0)) - np.mean([entropy(row) for row in p]),
        "density": density(p),
        "bnm": np.linalg.norm(p, "nuc") / 50,
        "importance_weighted": -(w * wrong).mean(),
        "dev": -((w * wrong).mean() + eta * w.mean() - eta),
        "reverse_validation": np.mean((source.features.numpy() @ head.T + bias).argmax(axis=1) == y),
    }
    assert label_free_scores(evidence) == pytest.approx(expected, abs=1e-5)
