"""Where a network looks: Grad-CAM against its definition by hand, and on what kind of output it is taken."""

import pytest
import torch
from builders import tiny_vit
from torch import Tensor, nn

from graft.data.preprocessing import Preprocessing
from graft.errors import UserError
from graft.inference.activation_maps import MapLayer, find_map_layer, grad_cam
from graft.models.backbones.base import Overrides, SequentialBackbone
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network


class Permuted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class MeanOfPlaces(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(1, 2))


def network_of(*groups: nn.Module, num_features: int = 4, num_classes: int = 3) -> Network:
    torch.manual_seed(0)
    named = {f"stage{number}": group for number, group in enumerate(groups)}
    backbone = SequentialBackbone(named, num_features, Preprocessing(size=8, mean=(0.5,), std=(0.5,)), Overrides())
    backbone.name = "small"
    head = LinearHead(num_features, num_classes)
    return Network(backbone, IdentityMapping(num_features), head).double().eval()


def images(num: int = 5, channels: int = 1, size: int = 8) -> Tensor:
    return torch.randn(num, channels, size, size, generator=torch.Generator().manual_seed(1)).double()


def test_equals_the_definition_with_gradients_by_hand() -> None:
    torch.manual_seed(3)
    convolution = nn.Conv2d(1, 4, 3, stride=2, padding=1)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = network_of(nn.Sequential(convolution, nn.Tanh()), pooled)
    x, classes = images(), torch.tensor([0, 1, 2, 0, 1])
    layer = find_map_layer(network, x[:1])
    assert layer == MapLayer("stage0", "nchw")
    found = grad_cam(network, layer, x, classes)
    with torch.no_grad():
        activation = convolution(x).tanh()  # [5, 4, 4, 4]
        # The logit is w_c . mean over the 16 places of A, so that dy / dA^k is w_ck / 16 everywhere.
        weights = network.head.linear.weight[classes] / 16
        by_hand = torch.einsum("nk,nkhw->nhw", weights, activation).clamp_min(0)
        by_hand = nn.functional.interpolate(by_hand[:, None], size=(8, 8), mode="bilinear", align_corners=False)[:, 0]
        by_hand /= by_hand.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(found, by_hand.float(), rtol=1e-5, atol=1e-6)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_channels_at_the_end_give_the_same() -> None:
    first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh())
    plain = network_of(first, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    turned = network_of(nn.Sequential(first, Permuted()), MeanOfPlaces())
    turned.load_state_dict({name.replace("stage0.", "stage0.0."): t for name, t in plain.state_dict().items()})
    x, classes = images(2), torch.tensor([0, 2])
    layer = find_map_layer(turned, x[:1])
    assert layer == MapLayer("stage0", "nhwc")
    expected = grad_cam(plain, find_map_layer(plain, x[:1]), x, classes)
    torch.testing.assert_close(grad_cam(turned, layer, x, classes), expected)


def test_a_class_token_is_followed_to_the_patches_that_it_attends_to() -> None:
    torch.manual_seed(0)
    backbone = tiny_vit()
    network = Network(backbone, IdentityMapping(16), LinearHead(16, 3)).eval()
    x = images(2, channels=3, size=32).float()
    layer = find_map_layer(network, x[:1])
    assert layer.layout == "tokens"
    assert layer.name.endswith("ln_1")
    maps = grad_cam(network, layer, x, torch.tensor([0, 1]))
    assert maps.shape == (2, 32, 32)
    assert maps.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1])


def test_without_places_there_is_no_map() -> None:
    network = network_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))
    with pytest.raises(UserError, match="small: no module of it gives a map or patches"):
        find_map_layer(network, images(1))
