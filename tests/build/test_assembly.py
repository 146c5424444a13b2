import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from graft.build.assembly import build_experiment, experiment_name
from graft.errors import UserError
from graft.models.backbones.cnn import Cnn
from graft.models.heads.mlp import MlpHead
from graft.models.mappings.identity import IdentityMapping
from graft.records.place import Place

Composed = Callable[..., dict[str, Any]]


def test_the_default(composed: Composed) -> None:
    config = composed()
    experiment = build_experiment(config)
    assert (experiment.name, experiment.seed, experiment.weights) == ("glyphs_to_digits", 0, "source")
    assert (experiment.source and experiment.source.name, experiment.target.name) == ("glyphs", "digits")
    assert isinstance(experiment.backbone(), Cnn)
    assert isinstance(experiment.mapping(84), IdentityMapping)
    assert experiment.head(84, 10)(torch.zeros(2, 84)).shape == (2, 10)
    assert list(experiment.baselines) == ["scratch"]
    assert experiment.baselines["scratch"].initialize == "scratch"
    assert experiment.store == Path("outputs/store")
    assert experiment.config is config


def test_each_stage_has_its_own_settings(composed: Composed) -> None:
    overrides = [
        "optimizer.lr=0.5",
        "seed=3",
        "pretrain.max_epochs=2",
        "trainer.max_epochs=7",
        "pretrain.optimizer.lr=0.1",
    ]
    experiment = build_experiment(composed(*overrides, "strategy@pretrain.strategy=linear_probe", "strategy=lp_ft"))
    transfer, pretrain = experiment.transfer, experiment.pretrain
    assert (transfer.max_epochs, pretrain.max_epochs) == (7, 2)
    assert (transfer.strategy.name, pretrain.strategy.name) == ("lp_ft", "linear_probe")
    assert (transfer.seed, pretrain.seed) == (3, 3)
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    assert [stage.optimizer(parameters).defaults["lr"] for stage in (transfer, pretrain)] == [0.5, 0.1]


@pytest.mark.parametrize(
    ("overrides", "transfer", "pretrain"),
    [
        ([], "channels_last", "channels_last"),
        (["adapter=lora"], "channels_last", "channels_last"),
        (["adapter=dora"], "contiguous", "channels_last"),
        (["memory_format=contiguous"], "contiguous", "contiguous"),
    ],
)
def test_the_memory_format_is_what_the_adapter_can_do(
    overrides: list[str], transfer: str, pretrain: str, composed: Composed
) -> None:
    experiment = build_experiment(composed(*overrides))
    assert (experiment.transfer.memory_format, experiment.pretrain.memory_format) == (transfer, pretrain)


def test_arguments_reach_their_objects(composed: Composed) -> None:
    experiment = build_experiment(
        composed("head=mlp", "head.num_hidden=5", "backbone.channels=1", "target.batch_size=7")
    )
    head = experiment.head(84, 3)
    assert isinstance(head, MlpHead)
    assert {5} <= {size for parameter in head.parameters() for size in parameter.shape}
    assert experiment.backbone().preprocessing.channels == 1
    assert experiment.target.batch_size == 7


def test_without_a_source(composed: Composed) -> None:
    experiment = build_experiment(composed("source=none", "strategy=scratch"))
    assert experiment.source is None
    assert experiment.name == "digits"


def test_a_name_of_its_own(composed: Composed) -> None:
    assert experiment_name(composed("name=mine")) == "mine"


def test_trainer_is_the_users(composed: Composed, tmp_path: Path) -> None:
    make = build_experiment(composed("trainer=cpu", "trainer.gradient_clip_val=0.5")).transfer.trainer
    trainer = make(max_epochs=2, logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    assert isinstance(trainer, Trainer)
    assert (trainer.max_epochs, trainer.gradient_clip_val) == (2, 0.5)


def test_callbacks_are_fresh_for_each_fit(composed: Composed) -> None:
    make = build_experiment(
        composed("callbacks=early_stopping", "callbacks.early_stopping.patience=9")
    ).transfer.callbacks
    [first], [second] = make(), make()
    assert isinstance(first, EarlyStopping)
    assert first.patience == 9
    assert first is not second


@pytest.mark.parametrize(("name", "kinds"), [("tensorboard", [TensorBoardLogger]), ("csv", [CSVLogger]), ("none", [])])
def test_loggers_write_where_they_are_told(name: str, kinds: list[type], composed: Composed, tmp_path: Path) -> None:
    makers = build_experiment(composed(f"logger={name}")).loggers
    loggers = [make(Place(tmp_path, "3 seed=1", "transfer")) for make in makers.values()]
    assert [type(logger) for logger in loggers] == kinds
    assert all(Path(logger.log_dir or "") == tmp_path / name / "3 seed=1" / "transfer" for logger in loggers)


def test_several_loggers_at_once(composed: Composed) -> None:
    assert list(build_experiment(composed("logger=[tensorboard,csv]")).loggers) == ["tensorboard", "csv"]


def test_keys_for_the_user_alone_are_not_passed_on(composed: Composed) -> None:
    experiment = build_experiment(composed("target=arrays", "target.path=x.npz"))
    assert Path(str(getattr(experiment.target.reader, "path", None))) == Path("x.npz")


def test_what_processes_are_started_with_can_be_pickled(composed: Composed) -> None:
    stage = build_experiment(composed("callbacks=ema")).transfer
    parts = (stage.strategy, stage.objective, stage.optimizer, stage.schedule, stage.trainer, stage.callbacks)
    assert pickle.loads(pickle.dumps(parts))[0] == stage.strategy


def test_a_refused_value_is_the_users_error(composed: Composed) -> None:
    with pytest.raises(UserError, match="warmup_fraction"):
        build_experiment(composed("scheduler.warmup_fraction=3"))


def test_building_reads_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "from graft.cli.compose import compose, hydra_application\n"
        "from graft.build.validation import validate\n"
        "from graft.build.assembly import build_experiment\n"
        "with hydra_application() as hydra:\n"
        "    config = compose(hydra.config_loader, ['target=image_folder', 'target.path=/nowhere'])\n"
        "assert validate(config) == []\n"
        "build_experiment(config)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=os.environ)
    assert not list(tmp_path.iterdir())


def test_objects_inside_others_belong_to_one_run(composed: Composed) -> None:
    first, second = (build_experiment(composed("target.augmentation.flip=true")) for _ in range(2))
    assert first.target is not second.target
    assert first.target.reader is not second.target.reader
    assert first.target.augmentation == second.target.augmentation
    assert first.target.augmentation is not second.target.augmentation


def test_every_fit_has_a_profiler_of_its_own(composed: Composed) -> None:
    make = build_experiment(composed("debug=profiler", "trainer=cpu", "+trainer.limit_val_batches=3")).transfer.trainer
    first, second = (make(logger=False, enable_checkpointing=False) for _ in range(2))
    assert type(first.profiler).__name__ == "SimpleProfiler"
    assert first.profiler is not second.profiler
    assert make.keywords["limit_val_batches"] == 3  # what `graft plan` looks at
    pickle.loads(pickle.dumps(make))
