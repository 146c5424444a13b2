"""Which layers are taken, and what stands in the way."""

import copy
import sys
from typing import Any

import pytest
import torch
from builders import tiny_vit
from torch import nn

from graft.errors import UserError
from graft.models.adapters.adalora import AdaLora
from graft.models.adapters.attention import OpenAttention
from graft.models.adapters.base import merged
from graft.models.adapters.bottleneck import Bottleneck
from graft.models.adapters.ia3 import Ia3
from graft.models.adapters.layers import PASSED_BY, Targets, find_layers
from graft.models.adapters.lora import Lora
from graft.models.adapters.oft import Oft
from graft.models.adapters.side_tuning import SideTuning
from graft.models.adapters.vera import Vera
from graft.models.adapters.visual_prompt import VisualPrompt
from graft.models.backbones.base import Overrides, SequentialBackbone
from graft.models.backbones.cnn import Cnn
from graft.models.backbones.timm import TimmBackbone
from graft.models.backbones.torchvision import TorchvisionBackbone

LORA = Lora(name="lora", targets=Targets(), rank=4)


def takes_all(layer: nn.Module, num_axes: int) -> str | None:
    return None


def test_by_layer_group_and_kind() -> None:
    def taken(**settings: object) -> list[str]:
        return list(find_layers(Cnn(), 32, Targets(**settings), takes_all)[0])

    assert taken() == ["stem.conv1", "stage1.conv2", "stage2.fc1", "stage3.fc2"]
    assert taken(kinds=["linear"]) == ["stage2.fc1", "stage3.fc2"]
    assert taken(groups=["stem", -1]) == ["stem.conv1", "stage3.fc2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": ["stage9"]}, "adapter.targets.groups: the backbone has no layer group 'stage9'; did you mean"),
        ({"groups": [4]}, "adapter.targets.groups: 4 is outside the backbone's 4 layer groups"),
    ],
)
def test_groups_that_are_none(settings: dict[str, list[str | int]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_layers(Cnn(), 32, Targets(**settings), takes_all)


def test_targets_that_are_none() -> None:
    with pytest.raises(UserError, match=r"no layer of cnn can take it: adapter.targets asks for no layers in all"):
        Lora(name="lora", targets=Targets(kinds=[])).adapt(Cnn(), 32)
    with pytest.raises(UserError, match=r"no layer of cnn can take it: adapter.targets asks for linear layers in stem"):
        Lora(name="lora", targets=Targets(groups=["stem"], kinds=["linear"])).adapt(Cnn(), 32)


def test_layers_that_are_never_called_are_left_out() -> None:
    """Swin multiplies with the weights of its attention itself: what is put around these layers would do nothing."""
    with torch.device("meta"):
        taken, skipped = find_layers(TorchvisionBackbone("swin_t", size=64), 64, Targets(), takes_all)
    assert set(skipped.values()) == {PASSED_BY}
    assert all(path.endswith((".attn.qkv", ".attn.proj")) for path in skipped)
    assert not any("attn" in path for path in taken)


def one_layer(layer: nn.Module) -> SequentialBackbone:
    body = SequentialBackbone({"stem": nn.Sequential(layer)}, 4, Cnn().preprocessing, Overrides())
    body.name = "one"
    return body


def adalora(**settings: Any) -> AdaLora:
    return AdaLora(name="adalora", targets=Targets(), **settings)


class Scaled(nn.Conv2d):
    """Computes something else with its weight."""


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(3, 6, 3, groups=3), "grouped convolutions, which PEFT cannot merge"),
        (nn.Conv2d(3, 6, 3, dilation=2), "dilated convolutions, which PEFT does not reproduce"),
        (nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), "convolutions with reflect padding"),
        (Scaled(3, 6, 3), "Scaled layers"),
    ],
)
def test_what_lora_cannot_stand_beside(layer: nn.Module, reason: str) -> None:
    with pytest.raises(UserError, match=f"adapter=lora: no layer of one can take it: 1 left out \\({reason}"):
        LORA.adapt(one_layer(layer), 32)


@torch.no_grad()
def test_adalora_takes_dilated_convolutions() -> None:
    body = adalora().adapt(one_layer(nn.Conv2d(3, 6, 3, dilation=2)), 32)
    for name, parameter in body.named_parameters():
        if "lora_E" in name:
            parameter.fill_(1.0)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(merged(body)(x), body(x))
    with pytest.raises(UserError, match="grouped convolutions"):
        adalora().adapt(one_layer(nn.Conv2d(3, 6, 3, groups=3)), 32)


def test_oft_leaves_linear_layers_on_images() -> None:
    with pytest.raises(UserError, match="linear layers on four axes"):
        Oft(name="oft", targets=Targets()).adapt(one_layer(nn.Linear(32, 4)), 32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lora(name="lora", targets=Targets(), rank=0), "adapter.rank=0: adapter=lora expects 1 or more"),
        (lambda: Vera(name="vera", targets=Targets(), dropout=1.0), "adapter.dropout=1.0: adapter=vera expects 0 or"),
        (lambda: Oft(name="oft", targets=Targets(), block_size=1), "adapter.block_size=1: adapter=oft expects 2 or"),
        (lambda: adalora(initial_rank=8), "adapter.initial_rank=8: adapter=adalora expects more than target_rank=8"),
        (lambda: adalora(target_rank=0), "adapter.target_rank=0: adapter=adalora expects 1 or more"),
        (lambda: adalora(delta_t=0), "adapter.delta_t=0: adapter=adalora expects 1 or more"),
        (lambda: adalora(tinit=0.8, tfinal=0.2), "adapter.tfinal=0.2: .* expects less than 1 together with tinit=0.8"),
        (lambda: adalora(tinit=-0.1), "adapter.tinit=-0.1: adapter=adalora expects 0 or more and less than 1"),
        (lambda: adalora(beta2=1.0), "adapter.beta2=1.0: adapter=adalora expects more than 0 and less than 1"),
        (lambda: adalora(orthogonality=-1.0), "adapter.orthogonality=-1.0: adapter=adalora expects 0 or more"),
        (lambda: SideTuning(name="side_tuning", channels=0), "adapter.channels=0: adapter=side_tuning expects 1"),
        (lambda: VisualPrompt(name="visual_prompt", width=16).adapt(Cnn(), 32), "less than half of 32 pixels"),
        (
            lambda: VisualPrompt(name="visual_prompt").adapt(
                one_layer(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))), 32
            ),
            "sees the image",
        ),
    ],
)
def test_values_out_of_range(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"^adapter=lora: peft is not installed; pip install 'graft\[peft\]'$"):
        LORA.adapt(Cnn(), 32)
    Bottleneck(name="bottleneck", targets=Targets()).adapt(Cnn(), 32)


@torch.no_grad()
def test_opened_attention_computes_what_the_native_one_does() -> None:
    torch.manual_seed(0)
    native = nn.MultiheadAttention(12, 3, batch_first=True).double().eval()
    nn.init.normal_(native.in_proj_bias)
    x = torch.randn(4, 7, 12, dtype=torch.float64)
    expected, _ = native(x, x, x, need_weights=False)
    opened = OpenAttention(native)
    assert (opened(x, x, x)[0] - expected).abs().max() < 1e-12
    closed = opened.closed()
    assert closed.state_dict().keys() == native.state_dict().keys()
    assert (closed(x, x, x, need_weights=False)[0] - expected).abs().max() < 1e-12


def test_attention_is_adapted_and_its_adapter_has_a_gradient() -> None:
    body = LORA.adapt(tiny_vit(), 32)
    assert body.adaptation is not None
    assert any(path.endswith("self_attention.out_proj") for path in body.adaptation.layers)
    body(torch.randn(2, 3, 32, 32)).square().sum().backward()
    gradients = {name: p.grad for name, p in body.named_parameters() if "lora_B" in name}
    assert len(gradients) == 2 * 4 + 1
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())


def test_what_a_timm_model_is_given_lies_in_the_group_of_its_layer() -> None:
    body = TimmBackbone("resnet10t", size=32)
    before = {group: set(module.state_dict()) for group, module in body.layer_groups.items()}
    body = LORA.adapt(body, 32)
    assert list(body.layer_groups) == list(before)
    names = [name for module in body.layer_groups.values() for name, _ in module.named_parameters()]
    assert sorted(names) == sorted(name.removeprefix("model.") for name, _ in body.named_parameters())
    assert "layer2.0.conv1.lora_A.default.weight" in dict(body.layer_groups["stage2"].named_parameters())
    assert copy.deepcopy(body).adaptation == body.adaptation


def test_a_prompt_is_a_frame() -> None:
    body = VisualPrompt(name="visual_prompt", width=3).adapt(one_layer(nn.Conv2d(3, 3, 1)), 32)
    (name,) = body.adaptation.added  # type: ignore[union-attr]
    prompt = dict(body.named_parameters())[name]
    assert prompt.shape == (3, 32**2 - 26**2)
    with torch.no_grad():
        prompt += 1
        layer = body.layer_groups["stem"][0].base_layer  # type: ignore[index]
        layer.weight.copy_(torch.eye(3)[..., None, None])
        layer.bias.zero_()
        framed = body(torch.zeros(1, 3, 32, 32))
    assert framed[..., 3:-3, 3:-3].abs().sum() == 0
    assert framed.sum() == prompt.numel()


def test_ia3_takes_grouped_convolutions() -> None:
    body = Ia3(name="ia3", targets=Targets()).adapt(one_layer(nn.Conv2d(3, 6, 3, groups=3)), 32)
    assert body.adaptation is not None
    assert body.adaptation.layers == ("stem.0",)
