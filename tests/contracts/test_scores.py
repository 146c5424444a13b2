"""What holds for every score of `conf/score`."""

import math
from pathlib import Path

import pytest
import torch
from conf_plugins import CONF, names
from hydra.core.config_loader import ConfigLoader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graft.build.assembly import make_scores
from graft.build.validation import validate_scores
from graft.cli.compose import group_config
from graft.errors import UserError
from graft.scores.base import Score, inputs_of

NUM_SOURCE = 4
NAMES = names("score")
NEEDS_FEATURES = [name for name in NAMES if name not in ("leep", "nce")]


@pytest.fixture(scope="module")
def scores(loader: ConfigLoader) -> dict[str, Score]:
    return make_scores({name: group_config(loader, "score", name) for name in NAMES})


def inputs(n: int = 60, d: int = 12, k: int = 3, shift: float = 3.0, seed: int = 0) -> dict[str, Tensor]:
    """Features and source probabilities that tell the classes apart the better the larger the shift."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    features = torch.randn(n, d, generator=generator) + shift * torch.eye(k, d)[labels] + 0.2
    logits = torch.randn(n, NUM_SOURCE, generator=generator) + shift * torch.eye(k, NUM_SOURCE)[labels]
    return {"features": features, "labels": labels, "source_probabilities": logits.softmax(1)}


def value(score: Score, given: dict[str, Tensor]) -> float:
    return score(**{name: given[name] for name in inputs_of(score)})


def test_the_configurations_are_sound(loader: ConfigLoader) -> None:
    nodes = {name: group_config(loader, "score", name) for name in NAMES}
    assert validate_scores(nodes) == []
    assert validate_scores({"knn": nodes["knn"] | {"neighbours": 3}}) == [
        "score/knn.neighbours: no such key; did you mean 'score/knn.num_neighbours'?"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_function_of_the_labels_and_something_to_judge_them_by(name: str, scores: dict[str, Score]) -> None:
    assert "labels" in inputs_of(scores[name])
    assert len(inputs_of(scores[name])) > 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "d"), [(60, 12), (24, 200)])
def test_it_is_a_finite_number_that_grows_with_the_distance_of_the_classes(
    name: str, n: int, d: int, scores: dict[str, Score]
) -> None:
    near, apart = (value(scores[name], inputs(n, d, shift=shift)) for shift in (0.0, 5.0))
    assert isinstance(near, float)
    assert math.isfinite(near)
    assert math.isfinite(apart)
    if name != "transrate" or n > d:  # with fewer samples than features it grows with the noise between samples too
        assert apart > near


@pytest.mark.parametrize("name", NAMES)
def test_shuffled_labels_score_less_than_the_true_ones(name: str, scores: dict[str, Score]) -> None:
    given = inputs(shift=3.0)
    true = value(scores[name], given)
    for seed in range(5):
        order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        assert value(scores[name], given | {"labels": given["labels"][order]}) < true


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), gap=st.integers(0, 5))
@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_of_the_classes_mean_nothing(name: str, seed: int, gap: int, scores: dict[str, Score]) -> None:
    """Another numbering, also one with gaps."""
    given = inputs(n=30, d=8, k=4, shift=1.0, seed=seed)
    numbers = torch.randperm(4, generator=torch.Generator().manual_seed(seed)) * (1 + gap) + gap
    relabelled = given | {"labels": numbers[given["labels"]]}
    assert value(scores[name], relabelled) == pytest.approx(value(scores[name], given), rel=1e-9, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize("name", [name for name in NAMES if name != "linear_probe"])  # whose folds are drawn
def test_the_order_of_the_samples_means_nothing(name: str, seed: int, scores: dict[str, Score]) -> None:
    given = inputs(n=30, d=40, k=3, shift=1.0, seed=seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    permuted = {key: tensor[order] for key, tensor in given.items()}
    assert value(scores[name], permuted) == pytest.approx(value(scores[name], given), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("name", NEEDS_FEATURES)
@pytest.mark.parametrize(("n", "d"), [(60, 12), (24, 200)])
def test_the_scale_and_the_axes_of_the_features_mean_nothing(
    name: str, n: int, d: int, scores: dict[str, Score]
) -> None:
    given = inputs(n, d, shift=1.0)
    generator = torch.Generator().manual_seed(1)
    rotation, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    turned = given | {"features": 30 * given["features"].double() @ rotation}
    assert value(scores[name], turned) == pytest.approx(value(scores[name], given), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_features_in_single_precision_score_as_in_double(name: str, scores: dict[str, Score]) -> None:
    given = inputs(d=80, shift=1.0)
    doubled = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in given.items()}
    assert value(scores[name], given) == value(scores[name], doubled)
    rounded = {key: t.bfloat16() if t.is_floating_point() else t for key, t in given.items()}
    assert value(scores[name], rounded) == pytest.approx(value(scores[name], given), rel=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_is_given_is_changed(name: str, scores: dict[str, Score]) -> None:
    given = {key: t.double() if t.is_floating_point() else t for key, t in inputs().items()}
    copies = {key: tensor.clone() for key, tensor in given.items()}
    value(scores[name], given)
    assert all(torch.equal(given[key], copies[key]) for key in given)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_with_a_single_sample(name: str, scores: dict[str, Score]) -> None:
    given = inputs(n=31)
    labels = given["labels"].clone()
    labels[5] = 7
    assert math.isfinite(value(scores[name], given | {"labels": labels}))


@pytest.mark.parametrize("name", NAMES)
def test_two_samples_are_enough(name: str, scores: dict[str, Score]) -> None:
    assert math.isfinite(value(scores[name], inputs(n=2, k=2)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("constant", [0.0, 2.5])
def test_what_does_not_vary_tells_nothing(name: str, constant: float, scores: dict[str, Score]) -> None:
    given = inputs(k=2)
    same = {
        "features": torch.full((60, 12), constant),
        "source_probabilities": torch.full((60, NUM_SOURCE), 1 / NUM_SOURCE),
    }
    uninformed = value(scores[name], given | same)
    assert math.isfinite(uninformed)
    assert uninformed < value(scores[name], given)
    if name in ("h_score", "transrate"):
        assert uninformed == pytest.approx(0.0, abs=1e-9)
    if name in ("leep", "nce"):
        assert uninformed == pytest.approx(-math.log(2))


@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_refused(name: str, scores: dict[str, Score]) -> None:
    with pytest.raises(UserError, match="60 samples of 1 class; it needs two classes or more"):
        value(scores[name], inputs() | {"labels": torch.full((60,), 3)})


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_number_is_refused(name: str, scores: dict[str, Score]) -> None:
    given = inputs()
    damaged = {key: torch.full_like(given[key], torch.nan) for key in ("features", "source_probabilities")}
    with pytest.raises(UserError, match="infinite or no numbers"):
        value(scores[name], given | damaged)


@pytest.mark.parametrize("path", sorted((CONF / "score").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_first_line_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")
