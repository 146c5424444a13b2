"""Seeing two domains as a network sees them: features of some images of both, before, during and after a stage."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from torch import Tensor

from graft.adaptation.distance import a_distance
from graft.adaptation.evidence import some_of
from graft.batch import in_dtype
from graft.callbacks.loggers import show_picture
from graft.callbacks.projector import Row, write_projector
from graft.callbacks.scatter import PLANES, Samples, domains_picture
from graft.data.datasets import UnlabelledImages
from graft.data.domain import Domain
from graft.features import in_eval_mode
from graft.models.network import Network
from graft.module import GraftModule, network_outputs
from graft.objectives.supervised import Outputs

BATCH_SIZE = 64
FEWEST_IMAGES = 8  # of both domains together
START, END = "start", "end"
PICTURES = "pictures"  # folder in a run's
HEADER = ("domain", "class of the source", "predicted")  # of the projector's rows
TEST_HEADER = ("label", "predicted", "right")


class Look(NamedTuple):
    """What a network makes of the images of both domains, float32 on the CPU."""

    source: Outputs
    target: Outputs
    a_distance: float | None

    @property
    def features(self) -> Tensor:
        """[n_s + n_t, d]."""
        return torch.cat([self.source.features, self.target.features])

    @property
    def predicted(self) -> Tensor:
        """Classes [n_s + n_t]."""
        return torch.cat([self.source.logits, self.target.logits]).argmax(dim=1)


def some_of_source(domain: Domain, num: int) -> tuple[Tensor, Tensor]:
    """At most so many images, uint8 [n, c, canvas, canvas], with labels [n]: of val first, then of train.

    They are spread evenly over the classes of a split, and the same at every call.
    """
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for split in ("val", "train"):
        dataset = domain.datasets[split]
        wanted = min(len(dataset), num - sum(len(part) for part in labels))
        if wanted:
            order = np.random.default_rng(0).permutation(len(dataset))
            order = order[np.argsort(dataset.labels.numpy()[order], kind="stable")]
            batch = dataset[np.sort(order[np.linspace(0, len(order) - 1, wanted).round().astype(np.int64)])]
            images.append(batch.x)
            labels.append(batch.y)
    return torch.cat(images), torch.cat(labels)


def some_of_target(domain: Domain, num: int) -> Tensor:
    """At most so many training images, uint8 [n, c, canvas, canvas], drawn without their labels, the same each time."""
    pool = UnlabelledImages(domain.pool.images, domain.pool.positions)
    return pool[some_of(len(pool), num, seed=0).numpy()].x


@dataclass
class DomainWatch:
    """Looks at a network before, during and after a stage, and leaves pictures and figures of what it sees.

    Args:
        source, target: loaded.
        num_images: of both domains together, half of each.
        shares_head: the network's classes are the source's.
        projection: name of the plane that features are shown in, one of `PLANES`.
        folder: of the run.
        device: where outputs are computed.
    """

    source: Domain
    target: Domain
    num_images: int
    shares_head: bool
    projection: str
    folder: Path
    device: torch.device
    looks: dict[str, Look] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.source_images, self.source_y = some_of_source(self.source, self.num_images // 2)
        self.target_images = some_of_target(self.target, self.num_images // 2)

    @property
    def compares_classes(self) -> bool:
        """Whether a class of the source is the target's of that number."""
        return self.source.class_names == self.target.class_names

    def begin(self, network: Network) -> None:
        """Look at the network as the stage begins with it."""
        with self.timed():
            self.looks[START] = self.look(network)
            self.save(START, self.picture(self.looks[START], "as training begins"))

    def end(self, network: Network, num_epochs: int) -> None:
        """Look at the network that the stage ended with."""
        with self.timed():
            self.looks[END] = self.look(network)
            self.save(END, self.picture(self.looks[END], f"after training, {num_epochs} epochs"))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the seconds of the block to those spent on watching."""
        started = time.monotonic()
        yield
        self.seconds += time.monotonic() - started

    @torch.no_grad()
    def look(self, network: Network) -> Look:
        """What the network makes of the images, in eval mode under the evaluation view; its modes are put back."""
        with in_eval_mode(network, self.device):
            source = outputs_of(network, self.source, self.source_images, self.device)
            target = outputs_of(network, self.target, self.target_images, self.device)
        return Look(source, target, a_distance(source.features, target.features))

    def accuracy(self, look: Look) -> float | None:
        """Share of the source's images that are classified right; None where the head is not for its classes."""
        if not self.shares_head:
            return None
        return float((look.source.logits.argmax(dim=1) == self.source_y).double().mean())

    def picture(self, look: Look, when: str) -> np.ndarray:
        """The features in the plane."""
        titles = [f"{self.source.name} and {self.target.name}: features {when}", self._caption(look)]
        if not look.features.isfinite().all():
            return domains_picture(None, self._samples(look), [*titles, "features are not finite numbers"])
        return domains_picture(PLANES[self.projection](look.features), self._samples(look), titles)

    def _caption(self, look: Look) -> str:
        accuracy = self.accuracy(look)
        parts = [] if accuracy is None else [f"accuracy on the source {100 * accuracy:.1f} %"]
        parts += [] if look.a_distance is None else [f"A-distance {look.a_distance:.2f}"]
        num = f"{len(self.source_images)} samples of the source, {len(self.target_images)} of the target"
        return ", ".join([*parts, num, "no label of the target is used"])

    def _samples(self, look: Look) -> Samples:
        num_source, num_target = len(self.source_images), len(self.target_images)
        names = (str(self.source.name), str(self.target.name))
        if not self.compares_classes:
            return Samples(num_source, num_target, names, np.empty(0, dtype=np.int64), ())
        classes = torch.cat([self.source_y, look.target.logits.argmax(dim=1)])
        return Samples(num_source, num_target, names, classes.numpy(), self.target.class_names)

    def save(self, name: str, picture: np.ndarray) -> None:
        """Write a picture of features to the run's folder."""
        save_picture(self.folder, f"features_{name}", picture)

    def log(self, loggers: Sequence[Logger], look: Look, picture: np.ndarray | None, step: int) -> None:
        """The A-distance and the picture at a step."""
        for logger in loggers:
            if look.a_distance is not None:
                logger.log_metrics({"a_distance": look.a_distance}, step=step)
            if picture is not None:
                show_picture(logger, "features", picture, step)

    def log_end(self, logger: Logger, step: int) -> None:
        """What was seen in the end, and features of the start and the end for TensorBoard's projector."""
        with self.timed():
            self.log([logger], self.looks[END], read_picture(self.folder, f"features_{END}"), step)
            if isinstance(logger, TensorBoardLogger):
                embeddings = {name: (look.features, self._rows(look)) for name, look in self.looks.items()}
                images = [*self.source_images.unbind(), *self.target_images.unbind()]
                write_projector(Path(logger.log_dir), HEADER, embeddings, images)

    def _rows(self, look: Look) -> list[Row]:
        predicted = [self.target.class_names[index] for index in look.predicted.tolist()]
        labels = [self.source.class_names[index] for index in self.source_y.tolist()]
        domains = [f"{self.source.name} (source)"] * len(labels)
        domains += [f"{self.target.name} (target)"] * len(self.target_images)
        labels += ["not looked at"] * len(self.target_images)
        return list(zip(domains, labels, predicted, strict=True))

    def report(self) -> dict[str, Any]:
        """What the record says."""
        return {
            "images": {"source": len(self.source_images), "target": len(self.target_images)},
            "a_distance": {name: look.a_distance for name, look in self.looks.items()},
            "source_accuracy": {name: self.accuracy(look) for name, look in self.looks.items()},
            "seconds": self.seconds,
        }


class DomainLogger(Callback):
    """Logs what a watch saw as the stage began, and lets it look again after every so many epochs.

    Args:
        watch: that has looked at the start.
        every: epochs between looks; 0 for none.
    """

    def __init__(self, watch: DomainWatch, every: int) -> None:
        self.watch = watch
        self.every = every

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The start, once a stage."""
        assert isinstance(pl_module, GraftModule)
        if trainer.is_global_zero and pl_module.stage_epoch == 0:
            picture = read_picture(self.watch.folder, f"features_{START}")
            self.watch.log(trainer.loggers, self.watch.looks[START], picture, 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Another look, except at the stage's last epoch, which the end shows."""
        assert isinstance(pl_module, GraftModule)
        epoch = pl_module.stage_epoch + 1
        if not (trainer.is_global_zero and self.every and epoch % self.every == 0 and epoch < pl_module.stage_epochs):
            return
        with self.watch.timed():
            look = self.watch.look(pl_module.network)
            picture = self.watch.picture(look, f"after epoch {epoch} of {pl_module.stage_epochs}")
            self.watch.save(f"epoch_{epoch:03d}", picture)
            step = pl_module.phase.first_epoch * pl_module.steps_per_epoch + trainer.global_step
            self.watch.log(trainer.loggers, look, picture, step)


def outputs_of(network: Network, domain: Domain, images: Tensor, device: torch.device) -> Outputs:
    """Logits and features, float32 on the CPU, of canvases [n, c, side, side] under the domain's evaluation view."""
    parts = []
    for piece in images.split(BATCH_SIZE):
        x = in_dtype(domain.view.evaluate(piece.to(device)), network.dtype)
        parts.append(network_outputs(network, x, cut=0))
    logits, features = (torch.cat(tensors).float().cpu() for tensors in zip(*parts, strict=True))
    return Outputs(logits, features)


@torch.no_grad()
def project_test(folder: Path, network: Network, domain: Domain, num_images: int, device: torch.device) -> None:
    """Features of at most so many test images, spread evenly over the split, for TensorBoard's projector."""
    dataset = domain.datasets["test"]
    num = min(num_images, len(dataset))
    batch = dataset[np.linspace(0, len(dataset) - 1, num).round().astype(np.int64)]
    with in_eval_mode(network, device):
        found = outputs_of(network, domain, batch.x, device)
    pairs = zip(batch.y.tolist(), found.logits.argmax(dim=1).tolist(), strict=True)
    names = domain.class_names
    rows = [(names[label], names[predicted], "yes" if label == predicted else "no") for label, predicted in pairs]
    write_projector(folder, TEST_HEADER, {"test": (found.features, rows)}, batch.x.unbind())


def save_picture(folder: Path, name: str, picture: np.ndarray) -> None:
    """Write a picture uint8 [h, w, 3] as PNG to the pictures of a run's folder."""
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / PICTURES / f"{name}.png", compress_level=1)


def read_picture(folder: Path, name: str) -> np.ndarray:
    """A picture that `save_picture` wrote."""
    with Image.open(folder / PICTURES / f"{name}.png") as image:
        return np.asarray(image)
