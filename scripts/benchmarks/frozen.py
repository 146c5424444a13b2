"""Three of four stages frozen: epochs of a ResNet-18 at 224 whose last stage and head train."""

from pathlib import Path

from harness import Repetition, Row, seconds, speedup
from parts import fit, ready_batches, seconds_per_epoch
from resnet import SGD, photographs, resnet18, train_epoch

from graft.models.network import Network

NUM_EPOCHS = 3  # the first fills the cache
NAIVE, GRAFT = "requires_grad=False", "graft, from the second epoch on"


def all_but_last_stage_frozen() -> Network:
    """By `requires_grad` alone."""
    network = resnet18()
    for group in list(network.backbone.layer_groups.values())[:-1]:
        group.requires_grad_(False)
    return network


def prepare(quick: bool, folder: Path) -> Repetition:
    """Seconds of one epoch."""
    domain = photographs(folder, 128 if quick else 256)
    batches = ready_batches(domain)

    def repetition() -> dict[str, float]:
        naive = all_but_last_stage_frozen()
        fitted = fit(resnet18(), domain, "last_stage", NUM_EPOCHS, SGD, folder)
        return {NAIVE: seconds(lambda: train_epoch(naive, batches)), GRAFT: seconds_per_epoch(fitted)}

    return repetition


ROW = Row(
    "frozen",
    "ResNet-18 at 224, three of four stages frozen, an epoch",
    "s",
    prepare,
    (speedup(GRAFT, NAIVE, at_least=2.5),),
)
