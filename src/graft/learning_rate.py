"""Learning-rate range test: the rate that `lr: auto` stands for in a stage, from a short fit that is thrown away.

The rate grows exponentially from step to step until the loss diverges (Smith, "Cyclical Learning Rates for Training
Neural Networks", WACV 2017, section 3.3). The suggestion is read off the smoothed losses by the rule that fastai calls
"valley" and its `lr_find` uses by default.
"""

import json
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from graft.epoch_loop import use_epoch_loop
from graft.errors import UserError
from graft.models.network import Network
from graft.module import Span
from graft.records.files import atomic_write_json
from graft.records.store import Store
from graft.stage import (
    MEMORY_FORMATS,
    Stage,
    expected_warnings,
    inference,
    phase_data,
    phase_module,
    prepare_phase,
    settle_groups,
)
from graft.strategies.engine import apply_phase
from graft.strategies.phases import ResolvedPhase

KIND, SEARCH = "learning_rate", "search.json"  # of the store's entries
LOWEST, HIGHEST, NUM_STEPS = 1e-7, 10.0, 100  # fastai's defaults, as are the next four
SMOOTHING = 0.98  # share that the running mean of the losses keeps in each step
DIVERGED = 4.0  # times the lowest running mean
NUM_FIRST_LEFT_OUT = NUM_STEPS // 10  # steps whose running mean is of few losses
NUM_LAST_LEFT_OUT = 5
LEAST_FALL = 0.05  # share of its height that the loss must fall by for a valley to be more than noise
NOTHING_STEPPED = "no phase of the strategy takes steps; its closed forms need no learning rate"


def find_rate(stage: Stage, new_network: Callable[[], Network], store: Store) -> dict[str, Any]:
    """What `lr: auto` stands for in a stage, and why; searched for once, and kept in the store under the stage's key.

    Args:
        stage: as it would be trained; its key is that of the stage with its rate still open.
        new_network: makes the network that the stage starts from, of which the search uses up one.
        store: where searches are kept.

    Returns:
        Plain values: `lr`, the curve's `rates` and (smoothed) `losses`, and the `seconds` the search took; or an `lr`
        of None and the `reason` where nothing is trained by steps.

    Raises:
        UserError: the loss falls at no rate.
    """

    def fill(entry: Path) -> None:
        atomic_write_json(entry / SEARCH, search(stage, new_network()))

    entry = store.get_or_make(KIND, stage.key, fill)
    found: dict[str, Any] = json.loads((entry / SEARCH).read_text())
    return found


def known_rate(key: str, store: Store) -> dict[str, Any] | None:
    """What was found for the stage with this key, None where nobody searched."""
    entry = store.entry(KIND, key)
    return None if entry is None else json.loads((entry / SEARCH).read_text())


def search(stage: Stage, network: Network) -> dict[str, Any]:
    """The range test of a stage (`find_rate`); the network and the stage's folder are not used again."""
    began = time.monotonic()
    with TemporaryDirectory() as folder, preserved_generators(stage.training.device):
        stage, _, _ = settle_groups(replace(stage, folder=Path(folder), logger=None), network)
        phase = first_stepped(stage, network)
        if phase is None:
            return {"lr": None, "reason": NOTHING_STEPPED, "seconds": time.monotonic() - began}
        curve = range_test(stage, network, phase)
    try:
        lr = suggestion(curve.rates, curve.losses)
    except UserError as error:
        raise UserError(f"{stage.name}: optimizer.lr=auto: {error}") from None
    return {"lr": lr, "rates": curve.rates, "losses": curve.losses, "seconds": time.monotonic() - began}


def preserved_generators(device: torch.device) -> Any:
    """A context that leaves the global generators as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def first_stepped(stage: Stage, network: Network) -> ResolvedPhase | None:
    """The first phase that trains by steps, with the network as that phase begins; None where there is none."""
    network.to(memory_format=MEMORY_FORMATS[stage.training.memory_format])
    for phase in stage.training.strategy.resolve(network, stage.training.max_epochs):
        apply_phase(network, phase)
        prepare_phase(stage, network, phase)
        if phase.trained_names:
            return phase
    return None


@dataclass
class Curve(Callback):
    """Notes rate and smoothed loss of every step, and ends the fit where the loss diverges."""

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # running means that are not drawn to where they began, at 0
    raw: list[float] = field(default_factory=list)
    _mean: float = 0.0
    _summed: float = 0.0  # losses of the batches whose gradients the coming step takes together

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One batch more, with its loss before the step."""
        self._summed += float(outputs["loss"])
        step = len(self.rates)
        if trainer.global_step == step:
            return
        self.raw.append(self._summed)
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * self._summed
        smoothed, self._summed = self._mean / (1 - SMOOTHING ** (step + 1)), 0.0
        if not isfinite(smoothed) or smoothed > DIVERGED * min([smoothed, *self.losses]):
            trainer.should_stop = True
            return
        self.rates.append(HIGHEST * exponential(step, NUM_STEPS))
        self.losses.append(smoothed)


def exponential(step: int, total: int) -> float:
    """The schedule from `LOWEST` to `HIGHEST`, as a share of `HIGHEST`."""
    return float((LOWEST / HIGHEST) ** (1 - step / (total - 1)))


def range_test(stage: Stage, network: Network, phase: ResolvedPhase) -> Curve:
    """Train the phase with rates that grow from step to step, as the stage would on one device, without callbacks.

    The rates of layer groups keep their ratios, so that the one of the curve is the optimiser's.
    """
    training = stage.training
    curve = Curve()
    trainer = training.trainer(
        max_epochs=-1,
        max_steps=NUM_STEPS,
        precision=training.precision,
        callbacks=[curve],
        logger=False,
        default_root_dir=stage.folder,
        devices=1,
        strategy="auto",
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    use_epoch_loop(trainer)
    trainer.precision_plugin.convert_module(network)
    whole = replace(phase, first_epoch=0)
    tested = replace(stage, training=replace(training.with_lr(HIGHEST), schedule=of_all_steps))
    data = phase_data(tested, network, whole, inference(training, trainer, network))
    module = phase_module(tested, network, whole, data, Span(epochs=1))
    with expected_warnings():
        trainer.fit(module, datamodule=data, weights_only=True)
    return curve


def of_all_steps(step: int, total: int) -> float:
    """`exponential` over all steps of the test, however many an epoch has."""
    return exponential(min(step, NUM_STEPS - 1), NUM_STEPS)


def suggestion(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate halfway down the longest valley of the losses, to three digits.

    The valley ends where the longest subsequence of falling losses ends (the first of several), and is as many steps
    long as that subsequence has losses (fastai's `valley`). A loss that still falls at the highest rate is a valley
    like any other.

    Raises:
        UserError: the loss falls by less than `LEAST_FALL` of its height.
    """
    rates, losses = rates[NUM_FIRST_LEFT_OUT:-NUM_LAST_LEFT_OUT], losses[NUM_FIRST_LEFT_OUT:-NUM_LAST_LEFT_OUT]
    lengths = falling_lengths(losses)
    longest = max(lengths, default=0)
    end = lengths.index(longest) if lengths else 0
    start = end - longest
    if not lengths or losses[max(start, 0)] - losses[end] < LEAST_FALL * abs(losses[max(start, 0)]):
        raise UserError(
            f"the loss falls at no learning rate from {LOWEST:g} to {HIGHEST:g} by {LEAST_FALL:.0%}; "
            "give optimizer.lr a number"
        )
    return float(f"{rates[start + int(longest / 3) + int(longest / 6)]:.3g}")


def falling_lengths(losses: Sequence[float]) -> list[int]:
    """For each loss, how many losses the longest falling subsequence has that ends with it.

    >>> falling_lengths([3.0, 5.0, 2.0, 2.0, 4.0, 1.0])
    [1, 1, 2, 2, 2, 3]
    """
    best: list[float] = []  # for each length, the negative of the highest loss that such a subsequence ends with
    lengths = []
    for loss in losses:
        position = bisect_left(best, -loss)
        best[position : position + 1] = [-loss]
        lengths.append(position + 1)
    return lengths
