import pytest
import torch
import torchvision.models
from torch import nn

from graft.errors import UserError
from graft.models.backbones.torchvision import TorchvisionBackbone
from graft.models.backbones.torchvision_groups import layer_groups


def test_preprocessing_is_that_of_the_default_weights() -> None:
    preprocessing = TorchvisionBackbone("shufflenet_v2_x0_5").preprocessing
    assert preprocessing.as_dict() == {
        "size": 224,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "resize": 256,
        "interpolation": "bilinear",
    }


def test_another_size_keeps_the_proportion_of_crop_to_canvas() -> None:
    preprocessing = TorchvisionBackbone("shufflenet_v2_x0_5", size=112).preprocessing
    assert (preprocessing.size, preprocessing.resize) == (112, 128)


def test_googlenet_takes_the_inputs_to_which_the_native_model_rescales() -> None:
    backbone = TorchvisionBackbone("googlenet").eval()
    native = torchvision.models.googlenet(init_weights=False, aux_logits=False).eval()
    state = {name: backbone.state_dict()[own] for own, name in backbone.native_names().items()}
    native.load_state_dict({**native.state_dict(), **state})
    native.fc = native.dropout = nn.Identity()
    native.transform_input = True  # as it is with the published weights
    x = torch.rand(2, 3, 64, 64)
    imagenet = torchvision.transforms.functional.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    ours = torchvision.transforms.functional.normalize(x, backbone.preprocessing.mean, backbone.preprocessing.std)
    with torch.no_grad():
        torch.testing.assert_close(backbone(ours), native(imagenet), rtol=1e-3, atol=1e-4)


def test_a_stage_is_a_run_of_blocks_at_one_resolution() -> None:
    backbone, x = TorchvisionBackbone("mobilenet_v3_small", size=64).eval(), torch.randn(1, 3, 64, 64)
    sides = []
    with torch.no_grad():
        for name, group in backbone.layer_groups.items():
            if name == "stage4":
                break
            x = group(x)
            sides.append(x.shape[-1])
    assert sides == [32, 16, 8, 4]


def test_an_unknown_name() -> None:
    with pytest.raises(UserError, match=r"backbone\.name=resnet19.*did you mean 'resnet1"):
        TorchvisionBackbone("resnet19")


@pytest.mark.parametrize(("name", "size"), [("vit_b_16", 100), ("maxvit_t", 100)])
def test_a_size_that_the_model_cannot_have(name: str, size: int) -> None:
    with pytest.raises(UserError, match=rf"backbone\.size={size}: {name}") as caught:
        TorchvisionBackbone(name, size=size)
    assert "\n" not in str(caught.value)


def test_a_family_without_groups() -> None:
    with pytest.raises(UserError, match="Linear"):
        layer_groups(nn.Linear(2, 2))
