"""A training step of MobileNetV2 at 224: large activations, little arithmetic."""

from functools import partial
from pathlib import Path

from harness import Repetition, Row, seconds, share
from parts import fit, new_network, ready_batches, seconds_per_epoch
from resnet import SGD, photographs, train_epoch

from graft.models.backbones.torchvision import TorchvisionBackbone
from graft.models.network import Network

BATCH_SIZE = 16
NUM_EPOCHS = 2  # the first warms up
BARE, GRAFT = "bare loop", "graft, all on"


def mobilenet() -> Network:
    """With random weights, the same at every call."""
    return new_network(partial(TorchvisionBackbone, "mobilenet_v2"))


def prepare(quick: bool, folder: Path) -> Repetition:
    """Seconds of a step, from the second epoch on."""
    domain = photographs(folder, BATCH_SIZE * (2 if quick else 10), BATCH_SIZE)
    batches = ready_batches(domain)

    def repetition() -> dict[str, float]:
        network = mobilenet()
        train_epoch(network, batches[:1])
        bare = seconds(lambda: train_epoch(network, batches))
        fitted = fit(mobilenet(), domain, "fine_tune", NUM_EPOCHS, SGD, folder)
        return {BARE: bare / len(batches), GRAFT: seconds_per_epoch(fitted) / len(batches)}

    return repetition


ROW = Row(
    "mobilenet",
    f"training step of MobileNetV2 at 224, batch {BATCH_SIZE}",
    "s",
    prepare,
    (share(GRAFT, BARE, at_most=1.05),),
    "graft crops, flips and normalises uint8 images and writes checkpoints too, but keeps the memory that a step frees "
    "for the next",
)
