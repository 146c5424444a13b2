"""Small real parts for tests: a domain on disk, networks, trainings."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from conf_plugins import CONF
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torchvision.models import MobileNetV2, VisionTransformer

from graft.data.domain import Domain
from graft.data.preprocessing import Preprocessing
from graft.data.readers.arrays import Arrays
from graft.experiment import Training
from graft.features import FeatureCache
from graft.models.backbones.base import Overrides, SequentialBackbone
from graft.models.backbones.cnn import Cnn
from graft.models.backbones.resnet_cifar import ResNetCifar
from graft.models.backbones.torchvision_groups import layer_groups
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network
from graft.objectives.supervised import CrossEntropy
from graft.stage import Stage
from graft.strategies.phases import Strategy
from graft.strategies.schedules import Cosine, Schedule

ON_THE_NETWORK = ("stoch_norm", "sam")  # regularisers that add nothing to the loss


def write_arrays(path: Path, num_per_class: int = 20, num_classes: int = 3, size: int = 32, seed: int = 0) -> Path:
    """Noise around one colour pattern a class: learnable, not trivial."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(60, 196, (num_classes, size, size, 3))

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat(np.arange(num_classes), count)
        x = patterns[y] + rng.normal(0, 60, (len(y), size, size, 3))
        return x.clip(0, 255).astype(np.uint8), y

    (x_train, y_train), (x_test, y_test) = split(num_per_class), split(10)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def tiny_domain(folder: Path, **settings: Any) -> Domain:
    """Three classes of 32 x 32 colour images, loaded for `cnn` and `resnet20`."""
    path = folder / "tiny.npz"
    if not path.exists():
        write_arrays(path)
    domain = Domain(name="tiny", reader=Arrays(path=str(path)), **{"batch_size": 16, "val_fraction": 0.2} | settings)
    domain.load(Cnn().preprocessing)
    return domain


def strategy(name: str) -> Strategy:
    """A strategy of conf/strategy."""
    settings = yaml.safe_load((CONF / "strategy" / f"{name}.yaml").read_text())
    settings.pop("_target_")
    return Strategy(**settings)


def network(backbone: str = "cnn", num_classes: int = 3, seed: int = 0) -> Network:
    """A freshly initialised small network: `cnn` has no norm layers, `resnet20` has."""
    torch.manual_seed(seed)
    body = Cnn() if backbone == "cnn" else ResNetCifar(depth=20)
    return Network(body, IdentityMapping(body.num_features), LinearHead(body.num_features, num_classes))


def training(
    strategy_name: str = "fine_tune",
    max_epochs: int = 3,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    schedule: Schedule | None = None,
    callbacks: tuple[Callback, ...] = (),
    precision: str = "32",
    memory_format: str = "contiguous",
    **trainer: Any,
) -> Training:
    """A training on one CPU process."""
    settings = {"accelerator": "cpu", "devices": 1} | trainer
    return Training(
        strategy=strategy(strategy_name),
        objective=CrossEntropy(),
        optimizer=optimizer or partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1),
        schedule=schedule or Cosine(),
        trainer=partial(Trainer, **settings),
        precision=precision,
        memory_format=memory_format,
        max_epochs=max_epochs,
        seed=0,
        callbacks=lambda: list(callbacks),
    )


def stage(folder: Path, domain: Domain, how: Training, key: str = "0" * 64, cache: FeatureCache | None = None) -> Stage:
    """A stage in `folder` that logs nowhere."""
    return Stage("transfer", key, how, domain, None, 0, folder, (), cache)


def tiny_vit(size: int = 32) -> SequentialBackbone:
    """A vision transformer of torchvision's with two blocks of width 16."""
    native = VisionTransformer(size, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24)
    preprocessing = Preprocessing(size=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    backbone = SequentialBackbone(layer_groups(native), 16, preprocessing, Overrides())
    backbone.name = "tiny_vit"
    return backbone


def small_mobilenet(size: int = 32) -> SequentialBackbone:
    """A `mobilenet_v2` of torchvision's with a third of the blocks, narrower ones, in as many stages."""
    stages = [[1, 8, 1, 1], [6, 8, 1, 2], [6, 16, 1, 2], [6, 16, 1, 2], [6, 24, 2, 2]]
    native = MobileNetV2(inverted_residual_setting=stages)
    preprocessing = Preprocessing(size=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    backbone = SequentialBackbone(layer_groups(native), native.last_channel, preprocessing, Overrides())
    backbone.name = "mobilenet_v2"
    return backbone


class Interrupt(Callback):
    """Stops the process's work in one epoch of the stage, after its first batch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if pl_module.stage_epoch == self.epoch:
            raise KeyboardInterrupt


class SameOnAllRanks(Callback):
    """Fails in either of two processes unless both ended an epoch with the same parameters, bit by bit.

    Those of an average are compared as well, where a callback before this one keeps one.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trained = {name for name, _, p in pl_module.network.named_group_parameters() if p.requires_grad}
        assert trained == set(pl_module.phase.trained_names)
        averages = [c._average_model for c in trainer.callbacks if isinstance(c, WeightAveraging)]
        parameters = [p.detach().flatten() for module in (pl_module, *averages) for p in module.parameters()]
        gathered = trainer.strategy.all_gather(torch.cat(parameters))
        assert len(gathered) == 2
        assert torch.equal(gathered[0], gathered[1])
