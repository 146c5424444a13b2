"""What follows training against independent computations: brute force, plain loops, the paper's recipe."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import network, tiny_domain
from scipy.special import log_softmax, softmax

from graft.after.temperature import LIMIT, best_temperature
from graft.after.tta import AveragedViews
from graft.averaging import weighted
from graft.data.augment import Augmentation
from graft.data.datasets import EpochSampler
from graft.data.view import View
from graft.evaluation import scores
from graft.seeds import stable_seed
from graft.soup import greedy_members

CPU = torch.device("cpu")


def example(seed: int, sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=80)
    logits = sharpness * (rng.normal(size=(80, 4)) + 1.2 * np.eye(4)[labels])
    return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(labels)


def loss(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    return float(
        -log_softmax(logits.numpy().astype(np.float64) / temperature, axis=1)[range(80), labels.numpy()].mean()
    )


@pytest.mark.parametrize("sharpness", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_temperature_has_less_loss(seed: int, sharpness: float) -> None:
    logits, labels = example(seed, sharpness)
    found = best_temperature(logits, labels)
    grid = np.geomspace(1 / LIMIT, LIMIT, 4001)
    brute = grid[int(np.argmin([loss(logits, labels, temperature) for temperature in grid]))]
    assert found == pytest.approx(brute, rel=np.log(LIMIT) / 1000)
    assert loss(logits, labels, found) <= loss(logits, labels, brute) + 1e-12
    assert loss(logits, labels, found) <= loss(logits, labels, 1.0)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, 16)
    inside = [(confidence > low) & (confidence <= high) for low, high in pairwise(edges)]
    return sum(b.mean() * abs(right[b].mean() - confidence[b].mean()) for b in inside if b.any())


@pytest.mark.parametrize("seed", range(3))
def test_scores_under_a_temperature(seed: int) -> None:
    logits, labels = example(seed, 5.0)
    temperature = best_temperature(logits, labels)
    found, plain = scores(logits.double() / temperature, labels), scores(logits, labels)
    probabilities = softmax(logits.numpy().astype(np.float64) / temperature, axis=1)
    assert found["loss"] == pytest.approx(loss(logits, labels, temperature), rel=1e-12)
    assert found["calibration_error"] == pytest.approx(calibration_error(probabilities, labels.numpy()), rel=1e-12)
    assert found["accuracy"] == plain["accuracy"]
    assert found["calibration_error"] < plain["calibration_error"]


def test_without_an_optimum_the_temperature_is_at_its_limit() -> None:
    logits, labels = torch.eye(3), torch.arange(3)
    assert best_temperature(logits, labels) == 1 / LIMIT
    assert best_temperature(-logits, labels) == LIMIT


def states(count: int) -> list[dict[str, torch.Tensor]]:
    return [network("resnet20", seed=seed).state_dict() for seed in range(count)]


def test_a_soup_is_the_mean_by_numpy() -> None:
    each = states(3)
    for name, tensor in weighted(each, [1.0] * len(each)).items():
        expected = np.mean([state[name].numpy().astype(np.float64) for state in each], axis=0)
        np.testing.assert_array_equal(tensor.numpy(), expected.astype(tensor.numpy().dtype))


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_interpolation_by_numpy(alpha: float) -> None:
    start, end = states(2)
    for name, tensor in weighted([start, end], [1 - alpha, alpha]).items():
        a, b = (state[name].numpy().astype(np.float64) for state in (start, end))
        expected = (1 - alpha) * a + alpha * b if tensor.is_floating_point() else b
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-7, atol=1e-12)


def recipe_1(parameters: list[np.ndarray], val_acc: dict[int, float], accuracy_of_average: object) -> list[int]:
    """Greedy soup as the paper's recipe 1 puts it, over sets of ingredients."""
    ingredients: list[int] = []
    for i in sorted(range(len(parameters)), key=val_acc.__getitem__, reverse=True):
        without = -np.inf if not ingredients else accuracy_of_average(np.mean([parameters[j] for j in ingredients], 0))
        if accuracy_of_average(np.mean([parameters[j] for j in [*ingredients, i]], 0)) >= without:
            ingredients = [*ingredients, i]
    return ingredients


@pytest.mark.parametrize("seed", range(20))
def test_greedy_soup_follows_the_recipe(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(60, 5)), rng.integers(2, size=60)
    models = [rng.normal(size=5) for _ in range(6)]

    def accuracy(weights: np.ndarray) -> float:
        return float(((x @ weights > 0) == y).mean())

    each = [accuracy(model) for model in models]
    found = greedy_members(each, lambda members: accuracy(np.mean([models[i] for i in members], 0)))
    assert found == recipe_1(models, dict(enumerate(each)), accuracy)
    assert accuracy(np.mean([models[i] for i in found], 0)) >= max(each)


@pytest.mark.parametrize("flip", [False, True])
def test_test_time_augmentation_by_a_loop(tmp_path: Path, flip: bool) -> None:
    """View by view, image by image of what the view's generator draws, probabilities averaged in float64."""
    domain, net = tiny_domain(tmp_path), network("cnn").eval()
    how = AveragedViews(Augmentation(crop_padding=3), num_views=4, flip=flip, seed=7)
    found, labels = how.log_probabilities(net, domain, "test", CPU)
    assert domain.preprocessing is not None
    random = View(domain.preprocessing, Augmentation(crop_padding=3), 3)
    [batch] = [domain.datasets["test"][index] for index in EpochSampler(30, 1000, shuffle=False)]
    total = torch.zeros(30, 3, dtype=torch.float64)
    count = 0
    for number in range(4):
        generator = torch.Generator().manual_seed(stable_seed(7, "test", number, 0))
        x = random.train(batch, generator).x if number else domain.view.evaluate(batch.x)
        for image in [x, torch.flip(x, dims=[3])] if flip else [x]:
            with torch.no_grad():
                total += net(image).double().softmax(1)
            count += 1
    assert count == (8 if flip else 4)
    torch.testing.assert_close(found.exp(), total / count, rtol=1e-5, atol=1e-7)
    assert torch.equal(labels, batch.y)
