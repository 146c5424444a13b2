"""Running statistics of normalisation layers, estimated anew on a domain's training images."""

import torch
from torch import Tensor, nn

from graft.data.domain import Domain
from graft.features import Inference, in_eval_mode, view_of
from graft.models.backbones.base import Backbone
from graft.strategies.rules import has_statistics


@torch.no_grad()
def recalibrate(backbone: Backbone, domain: Domain, how: Inference) -> None:
    """Set each layer's running mean and variance to those of its inputs over all images of `train`.

    AdaBN: Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", 2017, algorithm 1. The images
    are those of the label budget, under the evaluation view. Layers come in the order of the forward pass, each seeing
    what the new statistics of those before make of the images: each takes a pass over the images up to that layer, and
    the backbone in eval mode ends as it would in train mode on one batch of all images. Affine parameters stay.
    """
    with in_eval_mode(backbone, how.device):
        for layer in _in_order_of_use(backbone, domain, how):
            mean, variance = _moments(layer, backbone, domain, how)
            layer.running_mean.copy_(mean)  # type: ignore[operator]
            layer.running_var.copy_(variance)  # type: ignore[operator]


class _ReachedError(Exception):
    """The forward pass has come to the layer that is looked at."""


def _in_order_of_use(backbone: Backbone, domain: Domain, how: Inference) -> list[nn.Module]:
    """The layers with running statistics that a forward pass goes through."""
    used: dict[nn.Module, None] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        used[module] = None

    hooks = [module.register_forward_pre_hook(note) for module in backbone.modules() if has_statistics(module)]
    backbone(view_of(domain, next(iter(domain.loader("train"))), how))
    for hook in hooks:
        hook.remove()
    return list(used)


def _moments(layer: nn.Module, backbone: Backbone, domain: Domain, how: Inference) -> tuple[Tensor, Tensor]:
    """Mean and (population) variance [c] of the layer's inputs [n, c, ...] over all images and places.

    Batches are put together by Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979, in float64.
    """
    count, mean, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal count, mean, squares
        values = inputs[0].transpose(0, 1).flatten(1).cpu().double()  # [c, n x places]
        variance, batch_mean = torch.var_mean(values, dim=1, correction=0)
        num, difference = values.shape[1], batch_mean - mean
        total = count + num
        squares = squares + variance * num + difference.square() * (count * num / total)
        mean = mean + difference * (num / total)
        count = total
        raise _ReachedError

    hook = layer.register_forward_pre_hook(add)
    for batch in domain.loader("train"):
        try:
            with how.context():
                backbone(view_of(domain, batch, how))
        except _ReachedError:
            continue
    hook.remove()
    return mean, squares / count
