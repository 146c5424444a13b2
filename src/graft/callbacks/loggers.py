"""Where the curves of a run go: a logger for each stage and each program that shows them."""

import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Literal

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from graft.records.place import Place

PROJECT = "graft"
PACKAGES = ("wandb", "mlflow")  # that loggers of these names need, and extras of graft's bring
IDENTITY = "graft.stage"  # tag by which a run of MLflow is found again


Maker = Callable[[Place], Logger]


class StageLoggers:
    """The loggers of a run's stages, made when a stage first asks; it has the same ones when it asks again.

    Args:
        makers: by name.
        place: of the run.
    """

    def __init__(self, makers: Mapping[str, Maker], place: Place) -> None:
        self.makers, self.place = makers, place
        self._of: dict[str, tuple[Logger, ...]] = {}

    def of(self, stage: str) -> tuple[Logger, ...]:
        """Those of a stage."""
        if stage not in self._of:
            place = replace(self.place, stage=stage)
            self._of[stage] = tuple(make(place) for make in self.makers.values())
        return self._of[stage]

    def close(self, failed: bool) -> None:
        """The run is over."""
        for logger in (logger for loggers in self._of.values() for logger in loggers):
            if isinstance(logger, WandbLogger) and logger._experiment is not None:
                logger.experiment.finish(exit_code=int(failed))


def tensorboard(place: Place) -> Logger:
    """Event files for TensorBoard."""
    return TensorBoardLogger(place.below("tensorboard"), name="", version="", default_hp_metric=False)


def csv(place: Place) -> Logger:
    """A file `metrics.csv`; a stage that goes on writes into a folder beside that of its beginning."""
    first = folder = place.below("csv")
    number = 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}_{number}")
    return CSVLogger(folder, name="", version="")


def wandb(
    place: Place, project: str = PROJECT, entity: str | None = None, mode: Literal["offline", "online"] = "offline"
) -> Logger:
    """Weights & Biases: a run for each stage, those of a run of graft in one group.

    Args:
        place: where to write.
        project: which the runs are part of.
        entity: user or team that the project belongs to; None is wandb's own default.
        mode: "offline" only writes files, for `wandb sync`; "online" sends them.
    """
    if mode == "offline":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    from wandb import Settings

    place.folder.mkdir(parents=True, exist_ok=True)  # else wandb writes to a temporary folder
    return WandbLogger(
        name=f"{place.run} {place.stage}",
        save_dir=place.folder,
        project=project,
        entity=entity,
        id=place.identity,
        group=place.run,
        job_type=place.stage,
        mode=mode,
        reinit="create_new",  # stages of a run overlap
        settings=Settings(silent=True, console="off"),
    )


def mlflow(place: Place, experiment: str = PROJECT, tracking_uri: str | None = None) -> Logger:
    """MLflow: a run for each stage.

    Args:
        place: where to write.
        experiment: which the runs are part of.
        tracking_uri: a server or data base; None is `mlflow/mlflow.db` in the folder of the run or sweep.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would tell its makers of the run
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*noload")  # MLflow's mapping of its tables, on SQLAlchemy 2.1
        return _mlflow(place, experiment, tracking_uri)


def _mlflow(place: Place, experiment: str, tracking_uri: str | None) -> Logger:
    folder = place.folder.resolve() / "mlflow"
    if tracking_uri is None:
        folder.mkdir(parents=True, exist_ok=True)
    tags = {IDENTITY: place.identity, "graft.run": place.run, "graft.stage_name": place.stage}
    logger = MLFlowLogger(
        experiment_name=experiment,
        run_name=f"{place.run} {place.stage}",
        tracking_uri=tracking_uri or f"sqlite:///{folder / 'mlflow.db'}",
        artifact_location=None if tracking_uri else (folder / "artifacts").as_uri(),
        tags=tags,
    )
    client = logger._mlflow_client
    known = client.get_experiment_by_name(experiment)
    if known is not None:
        of_stage = f"tags.`{IDENTITY}` = '{place.identity}'"
        logger._run_id = next((run.info.run_id for run in client.search_runs([known.experiment_id], of_stage)), None)
    return logger


def missing_package(target: str) -> str | None:
    """The package that a logger's `_target_` needs and that is not installed; None where nothing is missing."""
    module, _, name = target.rpartition(".")
    return name if module == __name__ and name in PACKAGES and find_spec(name) is None else None


def show_picture(logger: Logger, tag: str, picture: np.ndarray, step: int = 0) -> None:
    """Show a picture uint8 [h, w, 3], where the logger can."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(tag, picture, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(tag, [Image.fromarray(picture)], step=step)
    elif isinstance(logger, MLFlowLogger):
        name = f"{re.sub(r'[^A-Za-z0-9_]+', '_', tag)}_{step}.png"
        logger.experiment.log_image(logger.run_id, Image.fromarray(picture), artifact_file=name)
