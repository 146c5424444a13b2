"""What is said of a backbone beside what it was before."""

import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import network, tiny_domain
from hypothesis import given, settings
from hypothesis import strategies as st

from graft import transferred
from graft.models.backbones.base import Backbone
from graft.models.backbones.cnn import Cnn
from graft.models.backbones.resnet_cifar import ResNetCifar
from graft.transferred import centred_gram, compare_with_start, distance, linear_cka, sample_images

CPU = torch.device("cpu")
seeds = st.integers(0, 2**32 - 1)


def features(rng: np.random.Generator, n: int, d: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d))


def cka(x: torch.Tensor, y: torch.Tensor) -> float:
    value = linear_cka([centred_gram(x)], [centred_gram(y)])
    assert value is not None
    return value


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(4, 30), st.integers(1, 40), st.floats(0.0, 1.0))
def test_cka_knows_no_rotation_shift_or_scale_and_no_order(seed: int, n: int, d: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    x = features(rng, n, d)
    y = share * x + (1 - share) * features(rng, n, d)
    rotation = torch.from_numpy(np.linalg.qr(rng.normal(size=(d, d)))[0])
    value = cka(x, y)
    assert 0.0 <= value <= 1.0
    assert cka(y, x) == pytest.approx(value, abs=1e-9)
    assert cka(0.01 * x @ rotation + 5, y) == pytest.approx(value, abs=1e-6)
    assert cka(x, -3 * x @ rotation + 1) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("constant", [0.0, 1 / 3, 1e4])
def test_cka_of_features_that_are_all_the_same_is_not_defined(constant: float) -> None:
    x = torch.randn(10, 7, generator=torch.Generator().manual_seed(0))
    assert linear_cka([centred_gram(torch.full((10, 7), constant))], [centred_gram(x)]) is None
    assert linear_cka([centred_gram(x)], [centred_gram(x * float("nan"))]) is None


def test_half_precision_features_are_compared_in_single_precision() -> None:
    x = torch.randn(64, 50, generator=torch.Generator().manual_seed(0)).bfloat16() + 100
    assert cka(x, x.float()) == pytest.approx(1.0, abs=1e-6)


def test_distance_from_nothing() -> None:
    zero, one = [torch.zeros(4)], [torch.ones(4)]
    assert distance(zero, zero) == (0.0, 0.0)
    assert distance(zero, one) == (2.0, None)
    assert distance(one, zero) == (2.0, 1.0)
    assert distance([], []) == (0.0, 0.0)


def moved(backbone: Backbone, *groups: str, by: float = 0.05) -> tuple[Backbone, dict[str, torch.Tensor]]:
    """The backbone with the parameters of these groups changed, and its state of before."""
    start = deepcopy(backbone.state_dict())
    with torch.no_grad():
        for group in groups:
            for parameter in backbone.layer_groups[group].parameters():
                parameter += by * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return backbone, start


def test_groups_up_to_the_first_that_changed_are_as_they_were(tmp_path: Path) -> None:
    backbone, start = moved(Cnn(), "stage2")
    found = compare_with_start(backbone, start, tiny_domain(tmp_path), 40, CPU)
    groups = found["groups"]
    assert list(groups) == ["stem", "stage1", "stage2", "stage3"]
    for name in ("stem", "stage1"):
        assert groups[name]["moved"] == groups[name]["moved_relative"] == 0.0
        assert groups[name]["cka"] == 1.0
    assert groups["stage3"]["moved"] == 0.0
    assert 0.0 < groups["stage3"]["cka"] < 1.0
    assert 0.0 < groups["stage2"]["cka"] < 1.0
    assert found["moved"] == pytest.approx(groups["stage2"]["moved"])
    assert found["images"] == 40
    assert all(row["buffers_moved"] is row["buffers_moved_relative"] is None for row in groups.values())


def test_cka_is_that_of_the_flattened_outputs_on_the_same_images(tmp_path: Path) -> None:
    domain = tiny_domain(tmp_path)
    backbone, start = moved(Cnn(), "stage1")
    before = Cnn()
    before.load_state_dict(start)
    x = domain.view.evaluate(sample_images(domain, 30))
    with torch.no_grad():
        outputs = [part.layer_groups["stage1"](part.layer_groups["stem"](x)) for part in (before, backbone)]
    expected = cka(*(output.flatten(1).double() for output in outputs))
    groups = compare_with_start(backbone, start, domain, 30, CPU)["groups"]
    assert groups["stage1"]["cka"] == pytest.approx(expected, abs=1e-5)


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    backbone, start = moved(ResNetCifar(depth=20).train(), "stage1")
    state = deepcopy(backbone.state_dict())
    compare_with_start(backbone, start, tiny_domain(tmp_path), 20, CPU)
    assert all(torch.equal(tensor, backbone.state_dict()[name]) for name, tensor in state.items())
    assert all(module.training for module in backbone.modules())
    assert not any(module._forward_hooks for module in backbone.modules())


def test_norm_statistics_that_moved_are_told_apart_from_parameters(tmp_path: Path) -> None:
    backbone = ResNetCifar(depth=20)
    start = deepcopy(backbone.state_dict())
    for module in backbone.layer_groups["stage2"].modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean += 0.1
    found = compare_with_start(backbone, start, tiny_domain(tmp_path), 40, CPU)
    assert found["moved"] == 0.0
    assert found["groups"]["stage1"]["buffers_moved"] == 0.0
    assert found["groups"]["stage1"]["cka"] == 1.0
    assert found["groups"]["stage2"]["moved"] == 0.0
    assert found["groups"]["stage2"]["buffers_moved"] > 0.0
    assert found["groups"]["stage2"]["cka"] < 1.0


def test_a_count_of_batches_is_no_distance(tmp_path: Path) -> None:
    backbone = ResNetCifar(depth=20)
    start = deepcopy(backbone.state_dict())
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.num_batches_tracked is not None:
            module.num_batches_tracked += 7
    groups = compare_with_start(backbone, start, tiny_domain(tmp_path), 40, CPU)["groups"]
    assert {row["buffers_moved"] for row in groups.values()} == {0.0}
    assert {row["cka"] for row in groups.values()} == {1.0}


def test_what_did_not_change_in_another_precision_did_not_move(tmp_path: Path) -> None:
    start = Cnn().state_dict()
    backbone = Cnn()
    backbone.load_state_dict(start)
    for dtype in (torch.bfloat16, torch.float64):
        fresh = deepcopy(backbone).to(dtype)
        found = compare_with_start(fresh, start, tiny_domain(tmp_path), 20, CPU)
        assert found["moved"] == 0.0
        moved(fresh, "stage3")
        assert compare_with_start(fresh, start, tiny_domain(tmp_path), 20, CPU)["groups"]["stage3"]["cka"] < 1.0


def test_nothing_is_run_where_nothing_moved_or_no_image_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transferred, "compare_outputs", lambda *_: pytest.fail("the network was run"))
    backbone, start = moved(Cnn())
    found = compare_with_start(backbone, start, tiny_domain(tmp_path), 40, CPU)
    assert found["images"] == 0
    assert {row["cka"] for row in found["groups"].values()} == {1.0}
    moved(backbone, "stage1")
    found = compare_with_start(backbone, start, tiny_domain(tmp_path), 0, CPU)
    assert [row["cka"] for row in found["groups"].values()] == [1.0, None, None, None]


def test_a_diverged_backbone_has_no_cka(tmp_path: Path) -> None:
    backbone, start = moved(Cnn(), "stage1", by=float("nan"))
    found = compare_with_start(backbone, start, tiny_domain(tmp_path), 40, CPU)
    assert math.isnan(found["moved"])
    assert found["groups"]["stem"]["cka"] == 1.0
    assert found["groups"]["stage1"]["cka"] is None


def test_images_are_of_val_then_of_train_and_never_of_test(tmp_path: Path) -> None:
    domain = tiny_domain(tmp_path)
    val, train = (domain.datasets[split][np.arange(domain.sizes[split])].x for split in ("val", "train"))
    assert domain.sizes["val"] == 12
    assert torch.equal(sample_images(domain, 12), val)
    assert torch.equal(sample_images(domain, 1000), torch.cat([val, train]))
    few = sample_images(domain, 20)
    assert len(few) == 20
    assert torch.equal(few[:12], val)
    assert torch.equal(few[12], train[0])
    assert torch.equal(few[-1], train[-1])
    del domain.datasets["test"]
    assert len(sample_images(tiny_domain(tmp_path, val_fraction=0.0), 10)) == 10


def test_batches_are_large_enough_for_the_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, start = moved(network().backbone, "stem")
    one = compare_with_start(backbone, start, tiny_domain(tmp_path), 48, CPU)["groups"]
    monkeypatch.setattr(transferred, "BATCH_SIZE", 16)
    three = compare_with_start(backbone, start, tiny_domain(tmp_path), 48, CPU)["groups"]
    for name, row in one.items():
        assert three[name]["cka"] == pytest.approx(row["cka"], abs=0.1)
