"""A training step of ResNet-18 at 224 in the precisions and memory formats that a processor may prefer."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from harness import Repetition, Row, timed
from resnet import SGD, resnet18
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

BATCH_SIZE = 16


def step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, bf16: bool) -> None:
    """One step."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        loss = cross_entropy(network(x), y)
    loss.backward()
    optimizer.step()


def side(memory_format: torch.memory_format, bf16: bool) -> partial[None]:
    """A step that is ready to be taken."""
    network = resnet18().to(memory_format=memory_format)
    x = torch.randn(BATCH_SIZE, 3, 224, 224).contiguous(memory_format=memory_format)
    return partial(step, network, SGD(network.parameters()), x, torch.arange(BATCH_SIZE) % 10, bf16)


def prepare(quick: bool, folder: Path) -> Repetition:
    """Each side has taken one step before it is measured."""
    sides = {
        "float32": side(torch.contiguous_format, bf16=False),
        "channels_last": side(torch.channels_last, bf16=False),
        "bf16 and channels_last": side(torch.channels_last, bf16=True),
    }
    for take in sides.values():
        take()
    return timed(sides)


ROW = Row(
    "precision",
    f"training step of ResNet-18 at 224, batch {BATCH_SIZE}",
    "s",
    prepare,
    note="what precision=auto and memory_format=auto choose among; a record says what was chosen",
)
