"""The batch size that `auto` stands for: as large as pays on this machine, by a short trial."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from graft.batch import in_dtype
from graft.data.domain import Domain
from graft.errors import UserError
from graft.experiment import Experiment, Training
from graft.memory import is_out_of_memory, keep_freed_memory, release
from graft.models.network import Network
from graft.module import kept_generators
from graft.records.files import atomic_write_json
from graft.records.hashing import content_hash
from graft.records.store import Store
from graft.stage import MEMORY_FORMATS
from graft.threads import threads_for

KIND, TRIAL = "batch_size", "trial.json"  # of the store's entries
SMALLEST = 8
FEWEST_STEPS = 8  # in an epoch: with fewer, the usual numbers of epochs hardly train
LEAST_GROWTH = 1.1  # of the images a second, for a batch twice as large to pay
NUM_STEPS = 5


@dataclass(frozen=True)
class Case:
    """A stage whose batch size is to be found."""

    training: Training
    domain: Domain
    config: list[Any]  # the plain settings that decide the network and its optimiser
    flop: int  # for the features of one image
    new_network: Callable[[], Network]


def settle_batch_sizes(
    experiment: Experiment, cases: Mapping[str, Case], store: Store
) -> tuple[Experiment, dict[str, Any]]:
    """The experiment with the batch size of each case's domain ("source", "target") chosen where it is open.

    Returns:
        the experiment, and for each domain that left it open `batch_size`, `images_per_second` by batch size (None
        where memory did not suffice) and the `seconds` of the trial.
    """
    found = {name: find_batch_size(case, store) for name, case in cases.items() if case.domain.batch_size == 0}
    settled = {name: cases[name].domain.with_batch_size(trial["batch_size"]) for name, trial in found.items()}
    source, target = settled.get("source", experiment.source), settled.get("target", experiment.target)
    return replace(experiment, source=source, target=target), found


def find_batch_size(case: Case, store: Store) -> dict[str, Any]:
    """The trial of a case, made once for a machine, network, view size and number of images, and kept in the store."""

    def fill(entry: Path) -> None:
        atomic_write_json(entry / TRIAL, trial(case))

    entry = store.get_or_make(KIND, case_key(case), fill)
    found: dict[str, Any] = json.loads((entry / TRIAL).read_text())
    return found


def is_known(case: Case, store: Store) -> bool:
    """Whether the store has the trial of a case."""
    return store.entry(KIND, case_key(case)) is not None


def is_from_store(case: Case, store: Store) -> bool:
    """Whether the trial of a case was not made by this run."""
    return not store.made(KIND, case_key(case))


def case_key(case: Case) -> str:
    """The hash of all that a trial's outcome may depend on."""
    training, device = case.training, case.training.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {torch.get_num_threads()}"
    numerics = [training.precision, training.memory_format]
    assert case.domain.preprocessing is not None
    shape = case.domain.preprocessing.shape
    return content_hash([torch.__version__, name, numerics, case.config, shape, candidates(case)[-1]])


def candidates(case: Case) -> list[int]:
    """Powers of two from `SMALLEST` on that leave `FEWEST_STEPS` in an epoch; of few images, one size at least."""
    num_images = case.domain.sizes["train"]
    smallest = min(SMALLEST, power_of_two(num_images))
    largest = max(smallest, power_of_two(num_images // FEWEST_STEPS))
    return [smallest << doublings for doublings in range((largest // smallest).bit_length())]


def power_of_two(limit: int) -> int:
    """The largest power of two up to a limit, 1 at least.

    >>> power_of_two(90), power_of_two(64), power_of_two(0)
    (64, 64, 1)
    """
    return 1 << max(0, limit.bit_length() - 1)


def trial(case: Case) -> dict[str, Any]:
    """Batches twice as large from step to step, until they no longer pay or no longer fit.

    A batch twice as large pays where it brings more than a tenth more images a second; beyond that, larger batches
    mean fewer steps and no shorter epochs, on a GPU as on a CPU.

    Raises:
        UserError: not even the smallest batch fits.
    """
    began = time.monotonic()
    speeds: dict[int, float | None] = {}
    best = 0
    keep_freed_memory()
    with kept_generators(case.training.device):
        network = case.new_network()
        for size in candidates(case):
            speeds[size] = speed = images_per_second(case, network, size)
            if speed is None or (best and speed <= LEAST_GROWTH * (speeds[best] or 0.0)):
                break
            best = size
    if not best:
        raise UserError(f"{case.domain.name}: batch_size=auto: not even {min(speeds)} samples fit into memory")
    return {"batch_size": best, "images_per_second": speeds, "seconds": time.monotonic() - began}


def images_per_second(case: Case, network: Network, batch_size: int) -> float | None:
    """Images a second in training steps of the whole network on noise, the fastest of a few; None: out of memory."""
    try:
        with used_threads(case, batch_size):
            return batch_size / step_seconds(case, network, batch_size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        release(case.training.device)


@contextmanager
def used_threads(case: Case, batch_size: int) -> Iterator[None]:
    """As many threads as a run with this batch size would use."""
    before = torch.get_num_threads()
    if case.training.device.type == "cpu":
        torch.set_num_threads(threads_for(batch_size, case.flop))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def step_seconds(case: Case, network: Network, batch_size: int) -> float:
    """Seconds of one training step, the fastest of a few.

    A precision or memory format that is still open is taken to be float32 and contiguous, which need most memory.
    """
    training, preprocessing = case.training, case.domain.preprocessing
    assert preprocessing is not None
    if training.precision == "auto":
        training = replace(training, precision="32")
    if training.lr == "auto":
        training = training.with_lr(1e-3)
    plugin, device = training.plain_trainer().precision_plugin, training.device
    plugin.convert_module(network)
    network.to(device).to(memory_format=MEMORY_FORMATS.get(training.memory_format, torch.contiguous_format)).train()
    optimizer = training.decaying_optimizer([p for p in network.parameters() if p.requires_grad])
    x = in_dtype(preprocessing.noise(batch_size).to(device), network.dtype)
    y = torch.zeros(batch_size, dtype=torch.long, device=device)

    def loss_of_step() -> Tensor:
        optimizer.zero_grad()
        with plugin.forward_context():
            loss = cross_entropy(network(x).float(), y)
        loss.backward()
        return loss.detach()

    def step() -> float:
        started = time.perf_counter()
        float(optimizer.step(loss_of_step))  # type: ignore[arg-type]  # waits for the device
        return time.perf_counter() - started

    step()  # the first one sets up kernels and the optimiser's slots
    return min(step() for _ in range(NUM_STEPS))
