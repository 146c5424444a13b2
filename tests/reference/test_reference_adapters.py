"""Adapters against the papers' equations, written out with plain matrices in float64.

The reference of a convolution is a matrix product over explicitly gathered patches; nothing of PEFT or of ours is used
beside the values of the parameters.
"""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graft.data.preprocessing import Preprocessing
from graft.models.adapters.adalora import (
    AdaLora,
    RankAllocation,
    budget,
    distance_from_orthonormal,
    kept,
    smooth,
    triplet_importance,
)
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


def adalora(weight: Array, bias: Array, parameters: dict[str, Array]) -> tuple[Array, Array]:
    """Zhang et al., ICLR 2023, equation 3: W + s P Lambda Q, with PEFT's alpha / (r + 1e-5) for s."""
    p, lambdas, q = (parameters[name] for name in ("lora_B", "lora_E", "lora_A"))
    return weight + ALPHA / (RANK + 1e-5) * p @ np.diag(lambdas[:, 0]) @ q, bias


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
    (AdaLora(name="adalora", targets=TARGETS, initial_rank=RANK, target_rank=1, alpha=ALPHA), adalora, tuple(LAYERS)),
    (Ia3(name="ia3", targets=TARGETS), ia3, tuple(LAYERS)),
    (Oft(name="oft", targets=TARGETS, block_size=2), oft, ("linear", "1x1")),
]


def adapter_parameters(body: Backbone) -> dict[str, Array]:
    """Values by PEFT's name for their kind."""
    assert body.adaptation is not None
    parameters = {f"{group}.{k}": p for group, m in body.layer_groups.items() for k, p in m.named_parameters()}
    kinds = ("lora_A", "lora_B", "lora_E", "lora_magnitude_vector", "ia3_l", "oft_R", "vera_lambda_b", "vera_lambda_d")
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


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.3, 0.5, 0.77, 0.999, 1.0])
def test_the_budget_falls_along_a_cubic(progress: float) -> None:
    """Zhang et al., ICLR 2023, equation 12, between the warm-up and the final phase, expanded."""
    b0, bt, x = 36, 14, progress
    expected = b0 - (b0 - bt) * (3 * x - 3 * x**2 + x**3)
    assert budget(b0, bt, progress) == int(expected + 1e-9)


def test_the_importance_of_triplets() -> None:
    """Equations 7 to 10, from one product of weight and gradient a step, with the means written out as sums."""
    rng = np.random.default_rng(0)
    beta1, beta2, steps = 0.8, 0.7, 6
    shapes = {"q": (3, 5), "lambda": (3, 1), "p": (4, 3)}
    scores, found = {}, {}
    for name, shape in shapes.items():
        weights, gradients = rng.normal(size=(2, steps, *shape))
        sensitivity = np.abs(weights * gradients)
        means = [
            sum((1 - beta1) * beta1 ** (t - s) * sensitivity[s] for s in range(t + 1)) for t in range(steps)
        ]  # equation 9
        differences = [np.abs(i - mean) for i, mean in zip(sensitivity, means, strict=True)]
        uncertainty = sum((1 - beta2) * beta2 ** (steps - 1 - s) * differences[s] for s in range(steps))  # equation 10
        scores[name] = means[-1] * uncertainty
        ours = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        for w, g in zip(torch.from_numpy(weights), torch.from_numpy(gradients), strict=True):
            smooth(*ours, w * g, beta1, beta2)
        found[name] = ours[0] * ours[1]
        np.testing.assert_allclose(found[name].numpy(), scores[name], atol=1e-12)
    expected = [
        scores["lambda"][i, 0] + sum(scores["q"][i]) / 5 + sum(scores["p"][:, i]) / 4 for i in range(3)
    ]  # equation 7
    triplets = triplet_importance(found["q"], found["lambda"], found["p"])
    np.testing.assert_allclose(triplets.numpy(), expected, atol=1e-12)


def test_those_kept_are_the_most_important_over_all_layers() -> None:
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=size) for size in (3, 5, 4)]
    for number in range(13):
        order = sorted(((s, i, j) for i, layer in enumerate(layers) for j, s in enumerate(layer)), reverse=True)
        expected = {(i, j) for _, i, j in order[:number]}
        masks = kept([torch.from_numpy(layer) for layer in layers], number)
        assert {(i, j) for i, mask in enumerate(masks) for j in mask.nonzero()[:, 0].tolist()} == expected


def test_the_distance_from_orthonormal() -> None:
    """Equation 4, unsquared, with inner products one by one."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=(3, 7))
    total = sum((q[i] @ q[j] - (i == j)) ** 2 for i in range(3) for j in range(3))
    assert float(distance_from_orthonormal(torch.from_numpy(q))) == pytest.approx(total**0.5, rel=1e-12)
    rotation = np.linalg.qr(rng.normal(size=(7, 7)))[0][:3]
    assert float(distance_from_orthonormal(torch.from_numpy(rotation))) == pytest.approx(0, abs=1e-12)


def test_ranks_are_given_up_as_by_the_library() -> None:
    """Against PEFT's own allocator on the same weights and gradients, which masks at the same steps of 40."""
    from peft.tuners.adalora import RankAllocator

    settings = AdaLora(
        name="adalora", targets=TARGETS, initial_rank=4, target_rank=2, tinit=0.1, tfinal=0.25, delta_t=3, beta2=0.7
    )
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6 * 7 * 7, 10))
    ours = settings.adapt(backbone(layers), SIZE).double()
    displace(ours)
    theirs = copy.deepcopy(ours)
    config = theirs.peft_config["default"]
    config.tinit, config.tfinal, config.total_step, config.deltaT, config.beta2 = 4, 10, 40, 3, 0.7
    allocation, allocator = RankAllocation(settings, ours).double(), RankAllocator(theirs, config, "default")
    counts = []
    for step in range(1, 41):
        x = torch.randn(5, 4, SIZE, SIZE, dtype=torch.float64)
        for body in (ours, theirs):
            body.zero_grad()
            body(x).square().sum().backward()
            with torch.no_grad():
                for parameter in body.parameters():
                    if parameter.grad is not None:
                        parameter -= 1e-4 * parameter.grad
        allocation.after_step(ours, step, 40)
        allocator.update_and_allocate(theirs, step, force_mask=step == 30)
        for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(own.detach().numpy(), other.detach().numpy(), atol=1e-12, err_msg=name)
        counts.append(sum(settings.report(ours)["ranks"].values()))
    assert counts[:5] == [8] * 5
    assert counts[29:] == [4] * 11
    assert {5, 6, 7} & set(counts[:29])


def test_the_share_of_the_loss_is_a_mean_over_matrices() -> None:
    """0.3 times the mean over the matrices P and Q of their distances from orthonormal."""
    settings = AdaLora(name="adalora", targets=TARGETS, initial_rank=4, target_rank=2, orthogonality=0.3)
    torch.manual_seed(0)
    body = settings.adapt(backbone(nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(294, 10))), SIZE).double()
    displace(body)
    p_and_q = {name: p.detach().numpy() for name, p in body.named_parameters() if "lora_A" in name or "lora_B" in name}
    rows = [matrix if "lora_A" in name else matrix.T for name, matrix in p_and_q.items()]
    expected = 0.3 * np.mean([np.sqrt(((q @ q.T - np.eye(4)) ** 2).sum()) for q in rows])
    assert len(rows) == 4
    assert float(RankAllocation(settings, body).penalty(body).detach()) == pytest.approx(expected, rel=1e-10)
