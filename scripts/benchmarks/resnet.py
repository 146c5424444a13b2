"""What the rows with networks of torchvision at 224 share."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from parts import new_network, random_domain
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from graft.data.domain import Domain
from graft.models.backbones.torchvision import TorchvisionBackbone
from graft.models.network import Network

BATCH_SIZE = 32
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


def resnet18() -> Network:
    """With random weights, the same at every call."""
    return new_network(partial(TorchvisionBackbone, "resnet18"))


def photographs(folder: Path, num: int, batch_size: int = BATCH_SIZE) -> Domain:
    """So many random images of 256 pixels, in memory."""
    return random_domain(folder, num, 256, TorchvisionBackbone("resnet18").preprocessing, batch_size)


def train_epoch(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """An epoch of the loop that one would write by hand, over what requires gradients."""
    optimizer = SGD([parameter for parameter in network.parameters() if parameter.requires_grad])
    network.train()
    for x, y in batches:
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(network(x), y).backward()
        optimizer.step()
