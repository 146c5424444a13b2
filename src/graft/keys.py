"""Content hashes: two stages share a key if and only if they would end in the same weights."""

from dataclasses import asdict
from typing import Any

import torch

from graft import __version__
from graft.data.domain import Domain
from graft.experiment import Experiment, Training
from graft.records.hashing import content_hash

# Trainer settings that show or time a run and leave its weights alone.
SHOWS_ONLY = frozenset(
    {
        "_target_",
        "_partial_",
        "max_epochs",  # in the key as the stage's own
        "logger",
        "log_every_n_steps",
        "profiler",
        "enable_progress_bar",
        "enable_model_summary",
        "enable_checkpointing",
        "default_root_dir",
    }
)


def stage_key(
    experiment: Experiment, training: Training, settings: dict[str, Any], domain: Domain, start: str | None
) -> str:
    """The hash of all that decides what a stage's weights become.

    Args:
        experiment: the experiment the stage belongs to.
        training: how the stage is trained.
        settings: the plain configuration of the stage's objective, optimizer, scheduler, head and mapping.
        domain: what it is trained on.
        start: hash of the weights it starts from; None for random ones.
    """
    config = experiment.config
    backbone = {name: value for name, value in config["backbone"].items() if name not in ("weights", "reinitialise")}
    return content_hash(
        {
            "versions": [__version__, torch.__version__],
            "device": training.device.type,
            "backbone": backbone,
            "start": start,
            "settings": settings,
            "phases": [asdict(phase) for phase in training.strategy.parsed],
            "groups": training.strategy.groups,
            "max_epochs": training.max_epochs,
            "seed": training.seed,
            "precision": training.precision,
            "memory_format": training.memory_format,
            "augmented_views": training.augmented_views,
            "trainer": {name: value for name, value in config["trainer"].items() if name not in SHOWS_ONLY},
            "callbacks": config.get("callbacks"),
            "data": domain.fingerprint,
            **domain.batch_settings,
        }
    )
