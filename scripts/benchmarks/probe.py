"""A linear probe: ten epochs of a head on a frozen ResNet-18 at 224."""

from collections.abc import Iterable
from pathlib import Path

import torch
from harness import Repetition, Row, seconds, share, speedup
from parts import fit, ready_batches
from resnet import BATCH_SIZE, SGD, photographs, resnet18, train_epoch
from torch import Tensor
from torch.nn.functional import cross_entropy

from graft.models.network import Network

NUM_EPOCHS = 10
NUM_IMAGES = 1024
NAIVE, EVAL, PASS, GRAFT = "requires_grad=False", "no_grad and eval", "one pass, bf16 and channels_last", "graft"
FASTEST = ("bf16-mixed", "channels_last")  # what precision=auto and memory_format=auto choose where they pay
Batches = Iterable[tuple[Tensor, Tensor]]


def naive_epoch(network: Network, batches: Batches) -> None:
    """The backbone runs as ever; only the head's gradients are wanted."""
    network.backbone.requires_grad_(False)
    train_epoch(network, batches)


def eval_epoch(network: Network, batches: Batches) -> None:
    """The backbone runs without a graph, in eval mode."""
    optimizer = SGD(network.head.parameters())
    network.backbone.eval()
    for x, y in batches:
        with torch.no_grad():
            features = network.backbone(x)
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(network.head(features), y).backward()
        optimizer.step()


@torch.no_grad()
def single_pass(network: Network, batches: Batches) -> None:
    """The features of every image, once, as fast as this processor can."""
    network.to(memory_format=torch.channels_last).eval()
    with torch.autocast("cpu", torch.bfloat16):
        for x, _ in batches:
            network.backbone(x.contiguous(memory_format=torch.channels_last))


def prepare(quick: bool, folder: Path) -> Repetition:
    """The peers' epochs are all alike and their batches too: one epoch over a part is measured, and multiplied."""
    num_measured = 32 if quick else 128
    domain = photographs(folder, NUM_IMAGES)
    batches = ready_batches(domain)
    part = batches[: num_measured // BATCH_SIZE]
    times = NUM_EPOCHS * NUM_IMAGES // num_measured

    def repetition() -> dict[str, float]:
        networks = [resnet18() for _ in range(4)]
        return {
            NAIVE: times * seconds(lambda: naive_epoch(networks[0], part)),
            EVAL: times * seconds(lambda: eval_epoch(networks[1], part)),
            PASS: seconds(lambda: single_pass(networks[2], batches)),
            GRAFT: seconds(lambda: fit(networks[3], domain, "linear_probe", NUM_EPOCHS, SGD, folder, *FASTEST)),
        }

    return repetition


ROW = Row(
    "probe",
    "linear probe on ResNet-18 at 224, ten epochs",
    "s",
    prepare,
    (share(GRAFT, PASS, at_most=1.15), speedup(GRAFT, NAIVE, at_least=20.0)),
    f"{NUM_IMAGES:,} images; graft's seconds are those of the whole stage: views, hashes, features, ten epochs, log, "
    "checkpoints; the peers get float tensors, and their epochs are measured on 128 images (32 in quick runs) and "
    "multiplied",
    quick_repeats=3,
)
