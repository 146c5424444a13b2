"""Precision and memory format: as asked, or the fastest on this device by a short trial."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from graft.batch import in_dtype
from graft.experiment import Experiment, Training
from graft.models.network import Network
from graft.records.files import atomic_write_json
from graft.records.hashing import content_hash
from graft.records.store import Store
from graft.stage import MEMORY_FORMATS

AUTO = "auto"
PRECISIONS = ("32", "bf16-mixed")  # what a trial chooses from: nothing that needs care with the loss' scale
MAX_BATCH = 32  # samples in a trial's batch
NUM_STEPS = 3


def settle(
    experiment: Experiment, new_network: Callable[[], Network], store: Store
) -> tuple[Experiment, dict[str, Any]]:
    """The experiment with every `auto` replaced, and what is said of it in the record.

    A trial is made once for a backbone, device and batch size, and its outcome kept in the store: a run that is
    resumed or repeated goes on in the same precision.

    Returns:
        the experiment, and `precision`, `memory_format` and, where a trial chose, the milliseconds of one training step
        of each candidate as `trial`.
    """
    training = experiment.transfer
    if AUTO not in (training.precision, training.memory_format):
        return experiment, {"precision": training.precision, "memory_format": training.memory_format}

    def fill(entry: Path) -> None:
        found = {key: 1000 * step_seconds(experiment, candidate, new_network()) for key, candidate in options.items()}
        atomic_write_json(entry / "trial.json", found)

    options = candidates(training)
    entry = store.get_or_make("trial", trial_key(experiment), fill)
    trial = json.loads((entry / "trial.json").read_text())
    chosen = options[min(trial, key=trial.__getitem__)]
    pretrain = replace(experiment.pretrain, precision=chosen.precision, memory_format=chosen.memory_format)
    said = {"precision": chosen.precision, "memory_format": chosen.memory_format, "trial": trial}
    return replace(experiment, transfer=chosen, pretrain=pretrain), said


def candidates(training: Training) -> dict[str, Training]:
    """Everything that `auto` may stand for, by its name."""
    precisions = PRECISIONS if training.precision == AUTO else (training.precision,)
    formats = tuple(MEMORY_FORMATS) if training.memory_format == AUTO else (training.memory_format,)
    return {
        f"{precision} {memory_format}": replace(training, precision=precision, memory_format=memory_format)
        for precision in precisions
        for memory_format in formats
    }


def trial_key(experiment: Experiment) -> str:
    """The hash of all that a trial's outcome may depend on."""
    training = experiment.transfer
    device = training.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {torch.get_num_threads()}"
    asked = [training.precision, training.memory_format]
    backbone = {key: value for key, value in experiment.config["backbone"].items() if key != "weights"}
    return content_hash([torch.__version__, name, asked, backbone, experiment.target.batch_size])


def step_seconds(experiment: Experiment, training: Training, network: Network) -> float:
    """Seconds of one training step of the whole network on noise, the fastest of a few."""
    trainer = training.plain_trainer()
    device, plugin = training.device, trainer.precision_plugin
    plugin.convert_module(network)
    network.to(device).to(memory_format=MEMORY_FORMATS[training.memory_format]).train()
    num = min(experiment.target.batch_size, MAX_BATCH)
    x = in_dtype(network.backbone.preprocessing.noise(num).to(device), network.dtype)
    y = torch.zeros(num, dtype=torch.long, device=device)

    def step() -> float:
        started = time.perf_counter()
        with plugin.forward_context():
            loss = cross_entropy(network(x).float(), y)
        loss.backward()
        float(loss.detach())  # waits for the device
        return time.perf_counter() - started

    step()  # the first one sets up kernels
    return min(step() for _ in range(NUM_STEPS))
