"""What candidates are judged by: the training split alone, in eval mode, without augmentation."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import write_arrays

from graft.build.assembly import build_experiment
from graft.build.validation import validate
from graft.cli.compose import compose, hydra_application
from graft.experiment import Experiment
from graft.models.backbones.resnet_cifar import ResNetCifar
from graft.models.weights import linear_classifier, save_weights
from graft.ranking import judge, probabilities

Make = Callable[..., Experiment]


@pytest.fixture
def experiment(tmp_path: Path) -> Iterator[Make]:
    """Build an experiment on tiny images from published weights of a ResNet with norm layers."""
    write_arrays(tmp_path / "target.npz", seed=2)
    torch.manual_seed(0)
    save_weights(native_resnet(), tmp_path / "weights.safetensors")
    words = ["trainer=cpu", "logger=none", "target=arrays", f"target.path={tmp_path / 'target.npz'}"]
    words += ["backbone=resnet20", f"backbone.weights={tmp_path / 'weights.safetensors'}", "source=none"]
    words += ["target.val_fraction=0.2", f"paths.outputs={tmp_path / 'outputs'}"]
    with hydra_application() as hydra:

        def make(*overrides: str) -> Experiment:
            config = compose(hydra.config_loader, [*words, *overrides])
            assert validate(config) == []
            return build_experiment(config)

        yield make


def native_resnet() -> torch.nn.Module:
    """ResNet-20 under the names that checkpoints have, with a classifier of 5 classes and norms that have seen data."""
    backbone = ResNetCifar(depth=20).train()
    backbone(2 * torch.rand(16, 3, 32, 32))
    native = torch.nn.Module()
    names = backbone.native_names()
    state = {names[key]: tensor for key, tensor in backbone.state_dict().items()}
    state |= {"linear.weight": torch.randn(5, 64), "linear.bias": torch.randn(5)}
    native.state_dict = lambda: state  # type: ignore[method-assign, assignment]
    return native


class Spy:
    """A score that keeps what it is given."""

    def __call__(self, features: torch.Tensor, labels: torch.Tensor, source_probabilities: torch.Tensor) -> float:
        self.features, self.labels, self.source_probabilities = features, labels, source_probabilities
        return 0.0


def seen(experiment: Experiment, folder: Path) -> Spy:
    spy = Spy()
    judge(experiment, {"spy": spy}, folder)
    return spy


def test_features_are_those_of_the_training_split_in_eval_mode(experiment: Make, tmp_path: Path) -> None:
    candidate = experiment()
    spy = seen(candidate, tmp_path)
    backbone = candidate.backbone()
    state = {key: tensor for key, tensor in native_state(tmp_path).items() if not key.startswith("linear")}
    backbone.load_state_dict({own: state[name] for own, name in backbone.native_names().items()})
    target, indices = candidate.target, torch.arange(candidate.target.sizes["train"]).numpy()
    batch = target.datasets["train"][indices]
    with torch.no_grad():
        expected = backbone.eval()(target.view.evaluate(batch.x))
    torch.testing.assert_close(spy.features.float(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(spy.labels, batch.y)
    weight, bias = native_state(tmp_path)["linear.weight"], native_state(tmp_path)["linear.bias"]
    torch.testing.assert_close(
        spy.source_probabilities.float(), (expected @ weight.T + bias).softmax(1), rtol=1e-3, atol=1e-5
    )


def native_state(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "weights.safetensors")


def test_augmentation_changes_nothing(experiment: Make, tmp_path: Path) -> None:
    plain = seen(experiment("features.cache_limit_gib=0"), tmp_path)
    augmented = seen(
        experiment("features.cache_limit_gib=0", "target.augmentation.flip=true", "target.augmentation.crop_padding=4"),
        tmp_path,
    )
    assert torch.equal(plain.features, augmented.features)


def test_test_images_and_labels_change_nothing(experiment: Make, tmp_path: Path) -> None:
    before = seen(experiment("features.cache_limit_gib=0"), tmp_path)
    arrays = dict(np.load(tmp_path / "target.npz"))
    arrays["x_test"], arrays["y_test"] = 255 - arrays["x_test"], arrays["y_test"][::-1].copy()
    np.savez(tmp_path / "target.npz", **arrays)
    after = seen(experiment("features.cache_limit_gib=0"), tmp_path)
    assert torch.equal(before.features, after.features)
    assert torch.equal(before.labels, after.labels)


def test_the_cache_gives_the_same_features(experiment: Make, tmp_path: Path) -> None:
    computed = seen(experiment("features.cache_limit_gib=0"), tmp_path)
    for _ in range(2):
        assert torch.equal(seen(experiment(), tmp_path).features, computed.features)


def test_random_weights_have_no_classifier(experiment: Make, tmp_path: Path) -> None:
    found = judge(experiment("strategy=scratch"), {"spy": Spy()}, tmp_path)
    assert (found["weights"], found["scores"], found["score_seconds"]) == ("scratch", {"spy": None}, {"spy": None})


def test_weights_that_are_partly_forgotten_have_no_classifier(experiment: Make, tmp_path: Path) -> None:
    found = judge(experiment("backbone.reinitialise=['stage3\\..*']"), {"spy": Spy()}, tmp_path)
    assert found["scores"] == {"spy": None}


def test_a_classifier_of_more_than_a_linear_layer_is_not_known() -> None:
    backbone = ResNetCifar(depth=20)
    state = dict(native_resnet().state_dict())
    weight, bias = linear_classifier(backbone, state) or pytest.fail("there is one")
    assert (weight.shape, bias.shape) == ((5, 64), (5,))
    for other in (
        {"linear.0.weight": torch.zeros(5, 64), "linear.0.bias": torch.zeros(5)},
        {"linear.weight": torch.zeros(5, 64, 1, 1)},
        {"linear.weight": torch.zeros(5, 63)},
    ):
        assert linear_classifier(backbone, state | other) is None
    assert linear_classifier(backbone, {k: v for k, v in state.items() if not k.startswith("linear")}) is None


def test_probabilities_are_a_softmax() -> None:
    features = torch.randn(7, 3, dtype=torch.float64)
    found = probabilities(features, torch.randn(4, 3), torch.randn(4))
    torch.testing.assert_close(found.sum(1), torch.ones(7, dtype=torch.float64))
