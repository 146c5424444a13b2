from pathlib import Path

import numpy as np
import pytest
import torch

from graft.errors import UserError
from graft.models.backbones.resnet_cifar import BasicBlock, ResNetCifar
from graft.models.weights import load_weights, read_weights


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_sizes_are_those_of_the_paper(depth: int, millions: float) -> None:
    count = sum(parameter.numel() for parameter in ResNetCifar(depth).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)  # He et al. 2016, table 6


def test_the_shortcut_has_no_parameters() -> None:
    block = BasicBlock(16, 32, stride=2).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 16, 8, 8)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_an_unknown_depth() -> None:
    with pytest.raises(UserError, match=r"backbone\.depth=18: expected one of 20, 32, 44, 56"):
        ResNetCifar(18)


@pytest.mark.shared
def test_published_weights_score_what_they_say(shared: Path) -> None:
    backbone = ResNetCifar(20)
    file = read_weights(str(shared / "weights" / "resnet20_cifar10.safetensors"), backbone)
    report = load_weights(backbone, file.state)
    assert set(report.dropped) == {"linear.weight", "linear.bias"}
    assert len(report.loaded) + len(report.dropped) == len(file.state)
    assert file.preprocessing == backbone.preprocessing

    data = np.load(shared / "data" / "cifar10_15k.npz", allow_pickle=False)
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (backbone.preprocessing.mean, backbone.preprocessing.std)
    )
    images = (torch.from_numpy(data["x_test"]).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        features = torch.cat([backbone.eval()(batch) for batch in images.split(500)])
    predictions = (features @ file.state["linear.weight"].T + file.state["linear.bias"]).argmax(1).numpy()
    accuracy = (predictions == data["y_test"]).mean()
    assert accuracy == pytest.approx(0.917, abs=0.01)  # 0.9170 on all 10,000 test images; two standard errors on 3,000
