"""Running statistics of normalisation layers, estimated anew on a domain's training images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graft.data.domain import Domain
from graft.features import Inference, in_eval_mode, view_of
from graft.models.backbones.base import Backbone
from graft.models.network import Network
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


@torch.no_grad()
def reestimate(network: Network, domain: Domain, how: Inference) -> None:
    """Set all running statistics to the mean of those of the batches of `train`, in one pass.

    For weights that were averaged rather than trained, whose activations no statistics belong to: Izmailov et al.,
    "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, section 3.1. The images are those of
    the label budget, shuffled, under the evaluation view. `recalibrate` is exact, and takes a pass for each layer.
    """
    domain.begin(seed=0, first_epoch=0)
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    with in_eval_mode(network, how.device), averaging_statistics(layers):
        for batch in domain.loader("train", shuffle=True):
            with how.context():
                network(view_of(domain, batch, how))


@contextmanager
def averaging_statistics(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """The layers normalise each batch by its own statistics, and end with the mean of these over the block's batches.

    Their modes, momenta and counters of batches are put back.
    """
    counted = [(layer, count) for layer in layers if (count := layer.num_batches_tracked) is not None]
    before = [(layer.training, layer.momentum, count.clone()) for layer, count in counted]
    for layer, _ in counted:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for a mean in place of a moving average
        layer.train()
    try:
        yield
    finally:
        for (layer, count), (training, momentum, count_before) in zip(counted, before, strict=True):
            layer.train(training)
            layer.momentum = momentum
            count.copy_(count_before)
