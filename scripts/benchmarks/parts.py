"""What rows share: domains in memory, trainings, a stage with everything on, a terminal that nobody looks at."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim import Optimizer

from graft.data.domain import Domain
from graft.data.preprocessing import Preprocessing
from graft.data.readers.arrays import Arrays
from graft.experiment import Training
from graft.features import FeatureCache
from graft.memory import M_MMAP_MAX, M_TRIM_THRESHOLD, set_malloc
from graft.models.backbones.base import Backbone
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network
from graft.objectives.supervised import CrossEntropy
from graft.records.store import Store
from graft.stage import Fitted, Stage, fit_stage
from graft.strategies.phases import Strategy
from graft.strategies.schedules import Constant

CONF = Path(__file__).resolve().parents[2] / "conf"
NUM_CLASSES = 10
M_MMAP_THRESHOLD, LARGEST_THRESHOLD = -3, 32 * 2**20  # of glibc's malloc.h and malloc.c


class Terminal(StringIO):
    """A terminal as far as progress displays can tell."""

    def isatty(self) -> bool:
        return True


@contextmanager
def on_a_terminal() -> Iterator[None]:
    """Standard output and error lead to terminals, so that every progress display is on."""
    streams, term = (sys.stdout, sys.stderr), os.environ.get("TERM")
    sys.stdout, sys.stderr, os.environ["TERM"] = Terminal(), Terminal(), "xterm"
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        if term is None:
            del os.environ["TERM"]
        else:
            os.environ["TERM"] = term


def random_domain(folder: Path, num_images: int, size: int, preprocessing: Preprocessing, batch_size: int) -> Domain:
    """Random images [size, size, c] of ten classes in memory, without validation samples."""
    rng = np.random.default_rng(0)
    shape = (size, size, len(preprocessing.mean))
    arrays: dict[str, Any] = {}
    for split, count in (("train", num_images), ("test", NUM_CLASSES)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"y_{split}"] = rng.permutation(np.arange(count) % NUM_CLASSES)
    path = folder / "images.npz"
    np.savez(path, **arrays)
    domain = Domain("random", Arrays(str(path)), val_fraction=0.0, batch_size=batch_size)
    domain.load(preprocessing)
    return domain


def ready_batches(domain: Domain) -> list[tuple[Tensor, Tensor]]:
    """The training batches as the network takes them: [(x [n, c, h, w], y [n])]."""
    return [(domain.view.evaluate(batch.x), batch.y) for batch in domain.train_dataloader()]


def new_network(backbone: Callable[[], Backbone]) -> Network:
    """A network with random weights, the same at every call."""
    torch.manual_seed(0)
    body = backbone()
    return Network(body, IdentityMapping(body.num_features), LinearHead(body.num_features, NUM_CLASSES))


def read_strategy(name: str) -> Strategy:
    """A strategy of conf/strategy."""
    settings = yaml.safe_load((CONF / "strategy" / f"{name}.yaml").read_text())
    settings.pop("_target_")
    return Strategy(**settings)


def fit(
    network: Network,
    domain: Domain,
    strategy: str,
    max_epochs: int,
    optimizer: Callable[..., Optimizer],
    folder: Path,
    precision: str = "32",
    memory_format: str = "channels_last",
) -> Fitted:
    """A stage of graft in a folder of its own, with progress display, TensorBoard, checkpoints and feature cache on.

    Memory format and precision are those of a run that asks for none.
    """
    own = Path(tempfile.mkdtemp(dir=folder))
    training = Training(
        strategy=read_strategy(strategy),
        objective=CrossEntropy(),
        optimizer=optimizer,
        schedule=Constant(),
        trainer=partial(Trainer, accelerator="cpu", devices=1),
        precision=precision,
        memory_format=memory_format,
        max_epochs=max_epochs,
        seed=0,
        callbacks=list,
    )
    logger = TensorBoardLogger(own, name="", version="", default_hp_metric=False)
    cache = FeatureCache(Store(own / "store"), limit=10 * 2**30)
    stage = Stage("benchmark", "0" * 64, training, domain, None, 0, own / "stage", [logger], cache)
    with on_a_terminal():
        fitted = fit_stage(stage, network)
    give_freed_memory_back()
    logger.finalize("success")
    return fitted


def give_freed_memory_back() -> None:
    """Let the C library, if it is glibc, do as it does without graft; for the sides that are measured next.

    Its thresholds grow with what a program frees, until a call has set them; they are set to where they end.
    """
    set_malloc({M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: LARGEST_THRESHOLD, M_TRIM_THRESHOLD: 2 * LARGEST_THRESHOLD})


def seconds_per_epoch(fitted: Fitted) -> float:
    """Seconds of an epoch, from the second on."""
    first, last = fitted.history[0], fitted.history[-1]
    return float(last["seconds"] - first["seconds"]) / (last["epoch"] - first["epoch"])
