"""Learning-rate range test: the rate that `lr: auto` stands for in a stage, from a short fit that is thrown away.

The rate grows exponentially from step to step until the loss diverges (Smith, "Cyclical Learning Rates for Training
Neural Networks", WACV 2017, section 3.3). The suggestion lies between two of fastai's `lr_find`, as their geometric
mean: the middle of the longest valley of the smoothed losses (`valley`), which is often too low, and a tenth of the
rate with the lowest loss (`minimum`; Howard and Gugger, "Deep Learning for Coders with fastai and PyTorch", 2020,
chapter 5), which is often too high for weights that were trained before.
"""

import json
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from graft.errors import UserError
from graft.models.network import Network
from graft.module import Span, kept_generators
from graft.processes import one_device
from graft.records.files import atomic_write_json
from graft.records.store import Store
from graft.regularisers.base import Regularisation
from graft.stage import (
    MEMORY_FORMATS,
    Position,
    Stage,
    begin_regularisation,
    fitting,
    num_trained,
    own_trainer,
    phase_module,
    prepare_phase,
    settle_groups,
    snapshot,
)
from graft.strategies.engine import apply_phase
from graft.strategies.phases import ResolvedPhase, replan

KIND, SEARCH = "learning_rate", "search.json"  # of the store's entries
LOWEST, HIGHEST, NUM_STEPS = 1e-7, 10.0, 100  # fastai's defaults, as are the next two and what is left out
SMOOTHING = 0.98  # share that the running mean of the losses keeps in each step
DIVERGED = 4.0  # times the lowest running mean
BELOW_LOWEST_LOSS = 0.1  # of the rate with the lowest loss
NUM_FIRST_LEFT_OUT = NUM_STEPS // 10  # steps whose running mean is of few losses
NUM_LAST_LEFT_OUT = 5
LEAST_FALL = 0.5  # of the noise; of curves that are nothing but noise, one or two in a hundred have so deep a valley
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
    """The range test of a stage (`find_rate`); uses the network up and leaves nothing in the stage's folder."""
    began = time.monotonic()
    with TemporaryDirectory() as folder, kept_generators(stage.training.device):
        curve = curve_of(replace(stage, folder=Path(folder), loggers=()), network)
    if curve is None:
        return {"lr": None, "reason": NOTHING_STEPPED, "seconds": time.monotonic() - began}
    try:
        lr = suggestion(curve.rates, curve.losses, curve.noise)
    except UserError as error:
        raise UserError(f"{stage.name}: lr=auto: {error}") from None
    return {"lr": lr, "rates": curve.rates, "losses": curve.losses, "seconds": time.monotonic() - began}


def curve_of(stage: Stage, network: Network) -> "Curve | None":
    """The curve of the phase that trains most parameters, the first of several; None where none trains by steps.

    The phase begins where the stage does: phases before it are not trained, but what they solve or estimate is. It is
    the one with most to lose: a rate that suits a head alone can destroy a backbone that is thawed later.
    """
    stage, _, _ = settle_groups(stage, network)
    training = stage.training
    phases = training.strategy.resolve(network, training.max_epochs)
    index = max(range(len(phases)), key=lambda i: num_trained(network, phases[i]))
    if not phases[index].trained_names:
        return None
    network.to(memory_format=MEMORY_FORMATS[training.memory_format])
    regularisation = begin_regularisation(stage, network, Position(snapshot(network)))
    for phase in phases[: index + 1]:
        apply_phase(network, phase)
        prepare_phase(stage, network, phase)
    return range_test(stage, network, replan(phases, index, first_epoch=0), index, regularisation)


@dataclass
class Curve(Callback):
    """Notes rate and smoothed loss of every step, and ends the fit where the loss diverges."""

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # running means that are not drawn to where they began, at 0
    steps: list[float] = field(default_factory=list)  # the losses of the steps themselves
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
        loss, self._summed = self._summed, 0.0
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        smoothed = self._mean / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed) or smoothed > DIVERGED * min([smoothed, *self.losses]):
            trainer.should_stop = True
            return
        self.rates.append(HIGHEST * exponential(step, NUM_STEPS))
        self.losses.append(smoothed)
        self.steps.append(loss)

    @property
    def noise(self) -> float:
        """By how much the losses of neighbouring steps differ, as a median: about their standard deviation.

        Steps after the lowest of the smoothed losses do not count, where a rate too high makes for another noise.
        """
        lowest = min(range(len(self.losses)), key=self.losses.__getitem__, default=0)
        before = self.steps[: max(lowest, NUM_FIRST_LEFT_OUT) + 1]
        return median([abs(second - first) for first, second in pairwise(before)] or [0.0])


def range_test(
    stage: Stage,
    network: Network,
    phases: tuple[ResolvedPhase, ...],
    index: int,
    regularisation: Regularisation | None,
) -> Curve:
    """Train the phase `index` with rates that grow from step to step, on one device, without the user's callbacks.

    The rates of layer groups keep their ratios, so that the one of the curve is the optimiser's.
    """
    curve = Curve()
    trainer = own_trainer(
        stage,
        max_epochs=-1,
        max_steps=NUM_STEPS,
        callbacks=[curve],
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        **one_device(),
    )
    tested = replace(stage, training=replace(stage.training.with_lr(HIGHEST), schedule=exponential))
    span = Span(phases[index].max_epochs)
    module, data = phase_module(tested, network, phases, index, span, trainer, regularisation)
    with fitting(network, regularisation):
        trainer.fit(module, datamodule=data, weights_only=True)
    return curve


def exponential(step: int, total: int) -> float:
    """The schedule from `LOWEST` to `HIGHEST` in `NUM_STEPS`, however long the phase is, as a share of `HIGHEST`."""
    return float((LOWEST / HIGHEST) ** (1 - min(step, NUM_STEPS - 1) / (NUM_STEPS - 1)))


def suggestion(rates: Sequence[float], losses: Sequence[float], noise: float) -> float:
    """The geometric mean of the rate halfway down the longest valley and a tenth of that at its end, to three digits.

    The valley ends where the longest subsequence of falling losses ends (the first of several), and is as many steps
    long as that subsequence has losses. A loss that still falls at the highest rate ends a valley like any other.

    Args:
        rates: of the steps.
        losses: of the same steps, smoothed.
        noise: standard deviation of losses that are not smoothed.

    Raises:
        UserError: there are too few steps, or the valley is no deeper than `LEAST_FALL` of the noise.
    """
    inside = slice(NUM_FIRST_LEFT_OUT, -NUM_LAST_LEFT_OUT)
    rates, losses = rates[inside], losses[inside]
    lengths = falling_lengths(losses)
    longest = max(lengths, default=0)
    end = lengths.index(longest) if lengths else 0
    if longest < 2 or losses[max(end - longest, 0)] - losses[end] <= LEAST_FALL * noise:
        raise UserError(
            f"the loss falls clearly at no learning rate from {LOWEST:g} to {HIGHEST:g}; give the rate as a number"
        )
    middle = end - longest + longest // 2
    return float(f"{math.sqrt(rates[middle] * BELOW_LOWEST_LOSS * rates[end]):.3g}")


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
