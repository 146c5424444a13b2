"""What a trained network gets wrong on labelled images, and where in them it looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graft.batch import in_dtype
from graft.callbacks.examples import captioned, enlarged, overlaid, sheet
from graft.data.crops import centre_crop
from graft.data.domain import Domain
from graft.data.images import ImageFiles
from graft.errors import UserError
from graft.evaluation import evaluation_loader, predict, scores
from graft.inference.activation_maps import MapLayer, find_map_layer, grad_cam
from graft.inference.judging import check_same_classes
from graft.inference.trained import Trained
from graft.summary import most_confused

BATCH_SIZE = 16  # images whose maps are computed at once: gradients of a large backbone take memory
MOST_EXAMPLES = 6  # pictures of a confused pair


@dataclass(frozen=True)
class Judged:
    """What a network says of a split, image by image, the one with the largest loss first.

    Probabilities and losses are calibrated where the run found a temperature, as those of `graft predict`.
    """

    order: Tensor  # positions int64 [n] in the split
    labels: Tensor  # [n], as the following by position in the split
    probabilities: Tensor  # float64 [n, k]
    losses: Tensor  # float64 [n], cross-entropy
    scores: dict[str, Any]

    @property
    def predicted(self) -> Tensor:
        """Classes [n]."""
        return self.probabilities.argmax(dim=1)


def judge_each(trained: Trained, domain: Domain, split: str, device: torch.device) -> Judged:
    """Look at every image of a split; loads the domain.

    Raises:
        UserError: the domain's classes are not the network's, or the split is empty.
    """
    if (kind := trained.preprocessing.modality) != "image":
        raise UserError(f"{domain.name}: it draws images, and the run's inputs are {kind}")
    domain.load(trained.preprocessing)
    check_same_classes(trained.class_names, domain)
    if not domain.sizes[split]:
        raise UserError(f"{domain.name}: has no {split} images")
    logits, labels = predict(trained.network, evaluation_loader(domain, split), domain.view, device)
    calibrated = trained.calibrated(logits)
    losses = nn.functional.cross_entropy(calibrated, labels, reduction="none")
    order = torch.argsort(losses, descending=True, stable=True)
    return Judged(order, labels, calibrated.softmax(dim=1), losses, scores(calibrated, labels))


def confused_examples(judged: Judged, class_names: Sequence[str], num_pairs: int) -> list[dict[str, Any]]:
    """The commonest errors (`summary.most_confused`), each with the positions of those with the largest loss."""
    found = []
    for pair in most_confused(judged.scores["confusion"], class_names, num_pairs):
        row, column = class_names.index(pair["label"]), class_names.index(pair["predicted"])
        of_pair = (judged.labels == row) & (judged.predicted == column)
        positions = [place for place in judged.order.tolist() if of_pair[place]]
        found.append(pair | {"positions": positions[:MOST_EXAMPLES]})
    return found


def names_of_images(domain: Domain, split: str) -> list[str]:
    """The path of each image of a split, or its position where images are no files."""
    dataset = domain.datasets[split]
    positions = dataset.positions.tolist()
    images = dataset.images
    if isinstance(images, ImageFiles):
        return [str(images.paths[position]) for position in positions]
    raw = domain.reader.read()
    files = raw.splits[split if split in raw.splits else "train"].samples
    if isinstance(files, np.ndarray) or len(files) != len(images):  # some were broken, and left out
        return [str(index) for index in range(len(positions))]
    return [str(files[position]) for position in positions]


@dataclass
class Viewer:
    """Draws images of a split with what the network says of them, and where it looks.

    Args:
        trained: the network, on the device.
        domain: loaded.
        split: that positions are in.
        judged: what the network says of the split.
        layer: whose maps are drawn; None draws the images alone.
        device: where maps are computed.
    """

    trained: Trained
    domain: Domain
    split: str
    judged: Judged
    layer: MapLayer | None
    device: torch.device

    def panels(self, positions: Sequence[int]) -> list[np.ndarray]:
        """For each image itself, where its predicted class and its label are seen, and its probabilities and loss."""
        found: list[np.ndarray] = []
        for first in range(0, len(positions), BATCH_SIZE):
            some = torch.tensor(positions[first : first + BATCH_SIZE])
            canvases = self.domain.datasets[self.split][some.numpy()].x
            images = centre_crop(canvases[:], self.trained.preprocessing.size).numpy()
            predicted, labels = (values[some] for values in (self.judged.predicted, self.judged.labels))
            maps = [] if self.layer is None else [self.maps(canvases, classes) for classes in (predicted, labels)]
            for row, position in enumerate(some.tolist()):
                heats = [overlaid(images[row], heat[row].numpy()) for heat in maps]
                found.append(captioned([enlarged(images[row]), *heats], self.caption(position)))
        return found

    def maps(self, canvases: Tensor, classes: Tensor) -> Tensor:
        """Grad-CAM [n, size, size] on the CPU of canvases for a class each."""
        assert self.layer is not None
        x = in_dtype(self.domain.view.evaluate(canvases.to(self.device)), self.trained.network.dtype)
        return grad_cam(self.trained.network, self.layer, x, classes.to(self.device)).cpu()

    def caption(self, position: int) -> list[str]:
        """Predicted class and label with their probabilities, and the loss."""
        names, judged = self.trained.class_names, self.judged
        predicted, label = int(judged.predicted[position]), int(judged.labels[position])
        shares = [f"{100 * float(judged.probabilities[position, index]):.1f} %" for index in (predicted, label)]
        return [
            f"predicted {names[predicted]} ({shares[0]})",
            f"label {names[label]} ({shares[1]}), loss {float(judged.losses[position]):.3g}",
        ]

    def sheet(self, positions: Sequence[int]) -> np.ndarray:
        """All of them in one picture."""
        return sheet(self.panels(positions), per_row=6 if self.layer is None else 2)


def map_layer_of(trained: Trained, domain: Domain, split: str, device: torch.device) -> MapLayer:
    """The layer whose maps show where the network looks.

    Raises:
        UserError: the network has none.
    """
    canvases = domain.datasets[split][np.arange(1)].x
    x = in_dtype(domain.view.evaluate(canvases.to(device)), trained.network.dtype)
    return find_map_layer(trained.network, x)


def table_of_losses(judged: Judged, names: Sequence[str], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each image, the largest loss first."""
    return [
        {
            "image": names[place],
            "label": class_names[int(judged.labels[place])],
            "predicted": class_names[int(judged.predicted[place])],
            "probability_of_label": float(judged.probabilities[place, judged.labels[place]]),
            "probability_of_predicted": float(judged.probabilities[place].max()),
            "loss": float(judged.losses[place]),
        }
        for place in judged.order.tolist()
    ]
