"""Adapters against the papers' equations, written out with plain matrices in float64.

The reference of a convolution is a matrix product over explicitly gathered patches; nothing of PEFT or of ours is used
beside the values of the parameters.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graft.data.preprocessing import Preprocessing
from graft.models.adapters.base import Adapter, merged
from graft.models.adapters.dora import Dora
from graft.models.adapters.ia3 import Ia3
from graft.models.adapters.layers import Targets
from graft.models.adapters.lora import Lora
from graft.models.adapters.oft import Oft
from graft.models.adapters.rslora import RankStabilisedLora
from graft.models.adapters.vera import Vera
from graft.models.backbones.base import Backbone, Overrides, SequentialBackbone

Array = np.ndarray
Effective = Callable[[Array, Array, dict[str, Array]], tuple[Array, Array]]  # weight [o, i], bias [o], parameters
SIZE, RANK, ALPHA = 9, 3, 7.5
TARGETS = Targets()

LAYERS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * SIZE * SIZE, 10)),
    "3x3": lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten()),
    "strided, padded": lambda: nn.Sequential(nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1)), nn.Flatten()),
    "1x1": lambda: nn.Sequential(nn.Conv2d(4, 6, 1, stride=2), nn.Flatten()),
}


def backbone(layers: nn.Module) -> Backbone:
    body = SequentialBackbone(
        {"stem": layers}, 10, Preprocessing(size=SIZE, mean=(0.5,) * 4, std=(0.5,) * 4), Overrides()
    )
    body.name = "one layer"
    return body.double()


def layer_of(body: Backbone) -> nn.Module:
    return next(module for module in body.modules() if isinstance(module, nn.Linear | nn.Conv2d))


def patches(x: Array, layer: nn.Conv2d) -> Array:
    """[n, c, h, w] -> [n, places, c * kh * kw], each the values under the kernel at one place."""
    (kh, kw), (sh, sw), (ph, pw) = layer.kernel_size, layer.stride, layer.padding
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    places = [
        padded[:, :, top : top + kh, left : left + kw].reshape(len(x), -1)
        for top in range(0, padded.shape[2] - kh + 1, sh)
        for left in range(0, padded.shape[3] - kw + 1, sw)
    ]
    return np.stack(places, axis=1)


def apply(layer: nn.Module, x: Array, weight: Array, bias: Array) -> Array:
    """Flat outputs of the layer with this weight matrix [o, i] and bias [o]."""
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1) @ weight.T + bias
    outputs = patches(x, layer) @ weight.T + bias  # [n, places, o]
    return outputs.transpose(0, 2, 1).reshape(len(x), -1)


def low_rank(parameters: dict[str, Array]) -> Array:
    b, a = parameters["lora_B"], parameters["lora_A"]
    return b.reshape(len(b), RANK) @ a.reshape(RANK, -1)


def lora(weight: Array, bias: Array, parameters: dict[str, Array]) -> tuple[Array, Array]:
    """Hu et al., ICLR 2022, section 4.1: W + (alpha / r) B A."""
    return weight + ALPHA / RANK * low_rank(parameters), bias


def rslora(weight: Array, bias: Array, parameters: dict[str, Array]) -> tuple[Array, Array]:
    """Kalajdzievski 2023, equation 5: W + (alpha / sqrt(r)) B A."""
    return weight + ALPHA / RANK**0.5 * low_rank(parameters), bias


def dora(weight: Array, bias: Array, parameters: dict[str, Array]) -> tuple[Array, Array]:
    """Liu et al., ICML 2024, equation 5: m (W + s B A) / ||W + s B A||, norms over each output's weights."""
    direction = weight + ALPHA / RANK * low_rank(parameters)
    lengths = np.sqrt((direction**2).sum(axis=1, keepdims=True))
    return parameters["lora_magnitude_vector"].reshape(-1, 1) * direction / lengths, bias


def ia3(weight: Array, bias: Array, parameters: dict[str, Array]) -> tuple[Array, Array]:
    """Liu et al., NeurIPS 2022, section 3.3: the outputs, bias included, times l."""
    factors = parameters["ia3_l"].reshape(-1)
    return factors[:, None] * weight, factors * bias


def oft(weight: Array, bias: Array, parameters: dict[str, Array]) -> tuple[Array, Array]:
    """Qiu et al. 2023 and 2025: W R^T with blocks R^T = (I + Q)(1 + Q + Q^2 + Q^3 + ...), Q skew-symmetric.

    Up to the fourth power, (I + Q)(I + Q + Q^2 + Q^3) = I + 2 Q + 2 Q^2 + 2 Q^3 + Q^4.
    """
    rows = parameters["oft_R"]  # [blocks, elements above the diagonal]
    block = weight.shape[1] // len(rows)
    rotation = np.zeros((weight.shape[1],) * 2)
    for i, values in enumerate(rows):
        q = np.zeros((block, block))
        q[np.triu_indices(block, 1)] = values
        q -= q.T
        part = slice(i * block, (i + 1) * block)
        rotation[part, part] = np.eye(block) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q
    return weight @ rotation.T, bias


CASES: list[tuple[Adapter, Effective, tuple[str, ...]]] = [
    (Lora(name="lora", targets=TARGETS, rank=RANK, alpha=ALPHA), lora, tuple(LAYERS)),
    (RankStabilisedLora(name="rslora", targets=TARGETS, rank=RANK, alpha=ALPHA), rslora, tuple(LAYERS)),
    (Dora(name="dora", targets=TARGETS, rank=RANK, alpha=ALPHA), dora, tuple(LAYERS)),
    (Ia3(name="ia3", targets=TARGETS), ia3, tuple(LAYERS)),
    (Oft(name="oft", targets=TARGETS, block_size=2), oft, ("linear", "1x1")),
]


def adapter_parameters(body: Backbone) -> dict[str, Array]:
    """Values by PEFT's name for their kind."""
    assert body.adaptation is not None
    parameters = {f"{group}.{k}": p for group, m in body.layer_groups.items() for k, p in m.named_parameters()}
    kinds = ("lora_A", "lora_B", "lora_magnitude_vector", "ia3_l", "oft_R", "vera_lambda_b", "vera_lambda_d")
    return {kind: parameters[name].detach().numpy() for name in body.adaptation.added for kind in kinds if kind in name}


def displace(body: Backbone) -> None:
    """Give every parameter that the adapter brought another value."""
    assert body.adaptation is not None
    parameters = {f"{group}.{k}": p for group, m in body.layer_groups.items() for k, p in m.named_parameters()}
    with torch.no_grad():
        for name in body.adaptation.added:
            parameters[name] += 0.1 * torch.randn_like(parameters[name])


def outputs(body: Backbone, x: Tensor) -> Array:
    with torch.no_grad():
        result: Array = body(x).numpy()
    return result


@pytest.mark.parametrize(
    ("adapter", "effective", "kind"),
    [(adapter, effective, kind) for adapter, effective, kinds in CASES for kind in kinds],
    ids=lambda value: getattr(value, "name", value) if not callable(value) else "",
)
def test_outputs_are_those_of_the_papers_weights(adapter: Adapter, effective: Effective, kind: str) -> None:
    torch.manual_seed(0)
    body = backbone(LAYERS[kind]())
    layer = layer_of(body)
    weight, bias = (p.detach().numpy().copy() for p in (layer.weight, layer.bias))
    body = adapter.adapt(body, SIZE).eval()
    displace(body)
    x = torch.randn(5, 4, SIZE, SIZE, dtype=torch.float64)
    expected = apply(layer, x.numpy(), *effective(weight.reshape(len(weight), -1), bias, adapter_parameters(body)))
    np.testing.assert_allclose(outputs(body, x), expected, atol=1e-10)
    plain = merged(body)
    np.testing.assert_allclose(outputs(plain, x), expected, atol=1e-10)
    assert not np.allclose(expected, apply(layer, x.numpy(), weight.reshape(len(weight), -1), bias), atol=1e-3)


@pytest.mark.parametrize("groups", [2, 4])
def test_ia3_scales_the_outputs_of_grouped_convolutions(groups: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups)
    body = Ia3(name="ia3", targets=TARGETS).adapt(backbone(nn.Sequential(convolution)), SIZE).eval()
    displace(body)
    x = torch.randn(2, 4, SIZE, SIZE, dtype=torch.float64)
    expected = outputs(backbone(nn.Sequential(convolution)), x) * adapter_parameters(body)["ia3_l"].reshape(1, -1, 1, 1)
    np.testing.assert_allclose(outputs(body, x), expected, atol=1e-12)
    np.testing.assert_allclose(outputs(merged(body), x), expected, atol=1e-12)


def test_vera_scales_shared_random_matrices() -> None:
    """Kopiczko et al., ICLR 2024, equation 2, with A and B read off the adapter: they are Kaiming-uniform draws."""
    torch.manual_seed(0)
    first, second = nn.Linear(4 * SIZE * SIZE, 12), nn.Linear(12, 5)
    body = backbone(nn.Sequential(nn.Flatten(), first, second))
    weights = [(p.weight.detach().numpy(), p.bias.detach().numpy()) for p in (first, second)]
    body = Vera(name="vera", targets=TARGETS, rank=RANK).adapt(body, SIZE).double().eval()
    displace(body)
    wrappers = [module for module in body.modules() if hasattr(module, "vera_lambda_b")]
    a, b = (matrix["default"].numpy() for matrix in (wrappers[0].vera_A, wrappers[0].vera_B))
    assert a.shape == (RANK, 4 * SIZE * SIZE)
    assert b.shape == (12, RANK)
    x = torch.randn(5, 4, SIZE, SIZE, dtype=torch.float64)
    expected = x.numpy().reshape(5, -1)
    for (weight, bias), wrapper in zip(weights, wrappers, strict=True):
        scale_b, scale_d = (v["default"].detach().numpy() for v in (wrapper.vera_lambda_b, wrapper.vera_lambda_d))
        inner = np.diag(scale_b) @ b[: len(weight)] @ np.diag(scale_d) @ a[:, : weight.shape[1]]
        expected = expected @ (weight + inner).T + bias
    np.testing.assert_allclose(outputs(body, x), expected, atol=1e-10)
    np.testing.assert_allclose(outputs(merged(body), x), expected, atol=1e-10)


def test_the_gradient_of_dora_takes_the_norm_for_a_constant() -> None:
    """Liu et al., section 4.3; so the gradient of B is that of LoRA times m / ||W + s B A||."""
    torch.manual_seed(0)
    body = backbone(LAYERS["linear"]())
    layer = layer_of(body)
    x = torch.randn(5, 4, SIZE, SIZE, dtype=torch.float64)
    dora_like = Dora(name="dora", targets=TARGETS, rank=RANK, alpha=ALPHA)
    body = dora_like.adapt(body, SIZE)
    displace(body)
    body(x).sum().backward()
    values = adapter_parameters(body)
    weight = layer.weight.detach().numpy()
    direction = weight + ALPHA / RANK * low_rank(values)
    factor = values["lora_magnitude_vector"] / np.sqrt((direction**2).sum(axis=1))
    hidden = x.numpy().reshape(5, -1) @ values["lora_A"].T
    expected = ALPHA / RANK * factor[:, None] * hidden.sum(axis=0)[None]
    b = next(p for name, p in body.named_parameters() if "lora_B" in name)
    np.testing.assert_allclose(b.grad.numpy(), expected, atol=1e-10)
