"""Many heads on cached features: a grid of learning rates, weight decays and seeds, and a path of regularisation."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from harness import Repetition, Row, seconds, share, timed
from parts import NUM_CLASSES, fit, new_network, random_domain
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from graft.features import Inference, Prefix, extract
from graft.models.backbones.cnn import Cnn
from graft.models.heads.linear import LinearHead
from graft.probes import Grid, logistic_path, train_heads
from graft.strategies.schedules import Constant

NUM_SAMPLES, BATCH_SIZE, NUM_EPOCHS = 1000, 64, 10
ONE = Grid((1e-3,), (1e-2,), (0,))
MANY = Grid((1e-4, 1e-3, 1e-2, 1e-1), (0.0, 1e-3, 1e-2, 1e-1), (0, 1, 2, 3))
STRENGTHS = tuple(10.0**exponent for exponent in range(-5, 1))
BARE, STAGE, SINGLE, ALL = "one head, bare loop", "graft: one head as a stage", "graft: one head", "graft: 64 heads"


def bare(features: Tensor, labels: Tensor) -> None:
    """The loop that one would write by hand."""
    head = LinearHead(features.shape[1], NUM_CLASSES)
    optimizer = AdamW(head.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in range(NUM_EPOCHS):
        for batch in torch.randperm(len(labels)).split(BATCH_SIZE):
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(head(features[batch]), labels[batch]).backward()
            optimizer.step()


def at_once(features: Tensor, labels: Tensor, grid: Grid) -> float:
    """Seconds that all heads of the grid take."""
    return seconds(lambda: train_heads(features, labels, NUM_CLASSES, grid, AdamW, Constant(), NUM_EPOCHS, BATCH_SIZE))


def prepare_cnn(quick: bool, folder: Path) -> Repetition:
    """The 84 features of the cnn; a stage takes the images of the same domain."""
    network = new_network(Cnn)
    domain = random_domain(folder, NUM_SAMPLES, 32, network.backbone.preprocessing, BATCH_SIZE)
    features = extract(Prefix.whole(network.backbone), domain, "train", Inference(torch.device("cpu")))
    labels = domain.datasets["train"].labels
    optimizer = partial(AdamW, lr=1e-3, weight_decay=1e-2)
    return lambda: {
        BARE: seconds(lambda: bare(features, labels)),
        STAGE: seconds(lambda: fit(new_network(Cnn), domain, "linear_probe", NUM_EPOCHS, optimizer, folder)),
        SINGLE: at_once(features, labels, ONE),
        ALL: at_once(features, labels, MANY),
    }


def wide_features() -> tuple[Tensor, Tensor]:
    """As many features as a ResNet-18 has, above 0 like those: [n, 512], around one centre a class, and labels [n]."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    centres = torch.randn(NUM_CLASSES, 512, generator=generator)
    return (centres[labels] + 3 * torch.randn(NUM_SAMPLES, 512, generator=generator)).relu(), labels


def prepare_wide(quick: bool, folder: Path) -> Repetition:
    """The same on features of another size."""
    features, labels = wide_features()
    return lambda: {
        BARE: seconds(lambda: bare(features, labels)),
        SINGLE: at_once(features, labels, ONE),
        ALL: at_once(features, labels, MANY),
    }


def one_by_one(features: Tensor, labels: Tensor) -> None:
    """scikit-learn's solver at its default tolerance, from zero for every strength."""
    for strength in STRENGTHS:
        LogisticRegression(C=1 / (len(labels) * strength), max_iter=1000).fit(features.numpy(), labels.numpy())


def prepare_path(quick: bool, folder: Path) -> Repetition:
    """Six strengths of regularisation."""
    features, labels = wide_features()
    return timed(
        {
            "scikit-learn, one by one": lambda: one_by_one(features, labels),
            "graft: logistic_path": lambda: logistic_path(features, labels, NUM_CLASSES, STRENGTHS),
        }
    )


def many_heads(name: str, num_features: int, prepare: Callable[[bool, Path], Repetition]) -> Row:
    """The row of a grid of heads on so many features."""
    what = f"ten epochs of 64 heads on {num_features} features"
    return Row(name, what, "s", prepare, (share(ALL, SINGLE, at_most=3.0),), quick_repeats=5)


ROWS = (
    many_heads("heads", 84, prepare_cnn),
    many_heads("wide_heads", 512, prepare_wide),
    Row(
        "path",
        "six logistic heads on 512 features, solved from strong to weak weight decay",
        "s",
        prepare_path,
        note="both in float32; scikit-learn's default tolerance ends at losses that are higher by up to 1.3e-4",
    ),
)
