"""Where in an image a network sees a class: class activation maps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn

from graft.errors import UserError
from graft.models.network import Network

Outputs = list[tuple[str, Tensor]]  # module and what it gave, in the order in which modules end


@dataclass(frozen=True)
class MapLayer:
    """The module of the backbone whose output is looked at, and how that lies in memory."""

    name: str
    layout: str  # "nchw", "nhwc", or "tokens": [n, t, c], perhaps with others before those of the patches


def find_map_layer(network: Network, x: Tensor) -> MapLayer:
    """The last module of the backbone with a map of the image that the logits depend on.

    A map is [n, c, h, w] or [n, h, w, c] of more than one place, or tokens [n, t, c] of a square of patches. Where
    only a class token goes on to the head, the last tokens that it attends to are the last that count.

    Args:
        network: in eval mode.
        x: one image [1, c, size, size].

    Raises:
        UserError: there is none.
    """
    with torch.enable_grad(), recorded(network.backbone, None) as outputs:
        score = network(x.detach().requires_grad_()).max()
    found = [(name, output) for name, output in outputs if is_map(output) or is_tokens(output)]
    tensors = [output for _, output in found]
    gradients = torch.autograd.grad(score, tensors, allow_unused=True) if tensors else ()
    for (name, output), gradient in reversed(list(zip(found, gradients, strict=True))):
        layer = MapLayer(name, layout_of(output))
        if gradient is not None and as_map(gradient, layer.layout).any():
            return layer
    raise UserError(
        f"{network.backbone.name}: no module of it gives a map or patches of the image that its logits depend on, "
        "so there are no class activation maps"
    )


def grad_cam(network: Network, layer: MapLayer, x: Tensor, classes: Tensor) -> Tensor:
    """Gradient-weighted class activation maps [n, size, size] in [0, 1], the largest value of each 1 unless all are 0.

    With A^k the k-th channel of the layer's output and y^c the logit of the class, the map is
    ReLU(sum_k a_k A^k), a_k the mean over all places of dy^c / dA^k, brought to the size of the image by bilinear
    interpolation. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, equations 1 and 2.

    Args:
        network: in eval mode, so that an image's logits are its own.
        layer: found by `find_map_layer`.
        x: images [n, c, size, size].
        classes: whose logit is looked at, [n].
    """
    with torch.enable_grad(), recorded(network.backbone, layer.name) as outputs:
        logits = network(x.detach().requires_grad_())
        _, output = outputs[-1]
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), output)
    activation, slope = (as_map(tensor.detach(), layer.layout).float() for tensor in (output, gradient))
    weights = slope.mean(dim=(2, 3), keepdim=True)
    maps = (weights * activation).sum(dim=1, keepdim=True).relu()
    maps = nn.functional.interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    largest = maps.amax(dim=(1, 2), keepdim=True)
    return maps / largest.where(largest > 0, torch.ones_like(largest))


@contextmanager
def recorded(backbone: nn.Module, name: str | None) -> Iterator[Outputs]:
    """What modules give while the block runs: the one of that name, or all."""
    outputs: Outputs = []

    def note(module_name: str) -> object:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                outputs.append((module_name, output))

        return hook

    modules = [(found, module) for found, module in backbone.named_modules() if found and name in (None, found)]
    hooks = [module.register_forward_hook(note(found)) for found, module in modules]
    try:
        yield outputs
    finally:
        for handle in hooks:
            handle.remove()


def is_map(output: Tensor) -> bool:
    """Whether an output is [n, c, h, w] or [n, h, w, c] with more than one place; images are square, so h = w."""
    if output.ndim != 4:
        return False
    side = output.shape[2]
    return side > 1 and side in (output.shape[1], output.shape[3])


def is_tokens(output: Tensor) -> bool:
    """Whether an output is [n, t, c] with a square of patches among the tokens."""
    return output.ndim == 3 and num_patches(output.shape[1]) > 1


def num_patches(num_tokens: int) -> int:
    """The patches among so many tokens, of which up to eight (class token, registers) come first and are none.

    >>> num_patches(197), num_patches(49), num_patches(201), num_patches(33)
    (196, 49, 196, 25)
    """
    patches = isqrt(num_tokens) ** 2
    return patches if num_tokens - patches <= 8 else 0


def layout_of(output: Tensor) -> str:
    """How a map or tokens lie in memory."""
    if output.ndim == 3:
        return "tokens"
    return "nchw" if output.shape[2] == output.shape[3] else "nhwc"


def as_map(output: Tensor, layout: str) -> Tensor:
    """An output as [n, c, h, w]; of tokens, those of the patches."""
    if layout == "nchw":
        return output
    if layout == "nhwc":
        return output.permute(0, 3, 1, 2)
    patches = num_patches(output.shape[1])
    side = isqrt(patches)
    return output[:, -patches:].transpose(1, 2).unflatten(2, (side, side))
