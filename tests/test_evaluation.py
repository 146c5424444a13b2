"""Scores against independent computations."""

from collections.abc import Iterator
from threading import Event

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from graft import evaluation, features
from graft.batch import LabelledBatch
from graft.data.preprocessing import Preprocessing
from graft.data.threaded import in_order
from graft.data.view import View
from graft.evaluation import brier_score, expected_calibration_error, predict, reliability, scores
from graft.features import batches_at_once
from graft.models.backbones.cnn import Cnn
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network

CPU = torch.device("cpu")


def example(seed: int, num_samples: int = 200, num_classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_samples, num_classes, generator=generator) * 2
    return logits, torch.randint(num_classes, (num_samples,), generator=generator)


@given(st.integers(0, 1000))
def test_scores_agree_with_scikit_learn(seed: int) -> None:
    logits, labels = example(seed)
    result = scores(logits, labels)
    predicted = logits.argmax(1).numpy()
    assert result["accuracy"] == accuracy_score(labels, predicted)
    assert result["confusion"] == confusion_matrix(labels, predicted, labels=range(5)).tolist()
    probabilities = torch.softmax(logits.double(), 1).numpy()
    assert result["loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(5)), abs=1e-5)


@given(st.integers(0, 1000))
def test_mistaken_samples_are_those_of_the_commonest_errors(seed: int) -> None:
    logits, labels = example(seed)
    result = scores(logits, labels)
    confusion, predicted = result["confusion"], logits.argmax(1).tolist()
    errors = sorted((confusion[i][j] for i in range(5) for j in range(5) if i != j), reverse=True)
    assert [confusion[each["label"]][each["predicted"]] for each in result["mistaken"]] == errors[:5]
    for each in result["mistaken"]:
        found = [i for i, pair in enumerate(zip(labels.tolist(), predicted, strict=True)) if pair == pair_of(each)]
        assert each["positions"] == found[:8]


def pair_of(error: dict[str, int]) -> tuple[int, int]:
    return error["label"], error["predicted"]


def test_without_errors_nothing_is_mistaken() -> None:
    assert scores(torch.eye(3), torch.arange(3))["mistaken"] == []


def test_calibration_error_of_certain_predictions() -> None:
    logits = torch.tensor([[100.0, 0.0], [100.0, 0.0]])
    assert expected_calibration_error(reliability(logits, torch.tensor([0, 0]))) == 0.0
    assert expected_calibration_error(reliability(logits, torch.tensor([1, 1]))) == 1.0


@given(st.integers(0, 1000))
def test_calibration_is_measured_within_bounds_and_on_every_sample(seed: int) -> None:
    logits, labels = example(seed)
    bins = reliability(logits, labels)
    assert sum(bins["samples"]) == len(labels)
    assert 0.0 <= expected_calibration_error(bins) <= 1.0
    assert 0.0 <= brier_score(logits, labels) <= 2.0


def test_a_class_without_samples_has_no_accuracy() -> None:
    result = scores(torch.eye(3)[:2], torch.tensor([0, 1]))
    assert result["accuracy_by_class"] == [1.0, 1.0, None]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_results_come_in_order_and_few_items_are_taken_ahead(num_threads: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(20):
            taken.append(item)
            yield item

    last_first = Event()

    def work(item: int) -> int:
        if num_threads > 1:  # the first item is the last of the first few to be done
            _ = last_first.wait(5) if item == 0 else last_first.set()
        return item * item

    results = in_order(work, items(), num_threads)
    assert next(results) == 0
    assert len(taken) <= num_threads + 1
    assert list(results) == [item * item for item in range(1, 20)]


def test_an_error_in_a_thread_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 / item, [1, 0], 2))


def test_batches_at_once_fill_the_cores_that_threads_leave_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "num_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert batches_at_once(CPU) == 4
    assert batches_at_once(torch.device("cuda")) == 1
    for share, expected in (("6", 3), ("1", 1), ("99", 4), ("4,2", 2), ("", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", share)
        assert batches_at_once(CPU) == expected


def test_predictions_are_the_same_however_many_batches_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    preprocessing = Preprocessing(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    network = Network(Cnn(), IdentityMapping(84), LinearHead(84, 4))
    x, y = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8), torch.randint(4, (40,))
    batches = [LabelledBatch(x[at : at + 8], y[at : at + 8], torch.arange(at, at + 8)) for at in range(0, 40, 8)]
    view = View(preprocessing, None, 4)
    found = []
    for num in (1, 2):
        monkeypatch.setattr(evaluation, "batches_at_once", lambda device, num=num: num)
        found.append(predict(network, batches, view, CPU))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert torch.equal(found[0][1], y)
    assert not found[0][0].requires_grad
    with torch.no_grad():
        torch.testing.assert_close(found[0][0], network.eval()(x.float() / 127.5 - 1), rtol=1e-4, atol=1e-5)
