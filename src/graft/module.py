"""The LightningModule: one network, one phase of one strategy, one objective."""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from graft.batch import BatchView, LabelledBatch
from graft.errors import UserError
from graft.memory import Fitting, half_of, in_parts, keep_freed_memory, with_gradients
from graft.models.network import Network
from graft.objectives.supervised import Objective, Outputs
from graft.regularisers.base import PREFIX as REGULARISATION
from graft.regularisers.base import Regularisation, Step
from graft.seeds import stable_seed
from graft.strategies.engine import (
    make_optimizer,
    restore_optimizer_state,
    set_learning_rates,
    set_train_modes,
    train_modes,
)
from graft.strategies.phases import ResolvedPhase
from graft.strategies.rules import has_statistics
from graft.strategies.schedules import Schedule

log = logging.getLogger(__name__)

PREFIX = "network."  # of the network's state in the module's
BATCHES_AT_ONCE = 32  # whose results are held until they are summed


@dataclass(frozen=True)
class Span:
    """The epochs that one run of the learning-rate schedule covers, and how many of them lie behind."""

    epochs: int
    epochs_done: int = 0


@dataclass
class Tally:
    """Sums over the batches of an epoch, kept on the device so that no step waits for it.

    Many batches are summed at once: on small ones, the handful of operations that it takes would cost as much as a
    layer of the network. The same batches are summed at once in an epoch that was interrupted, so that the sums are the
    same to the last bit; of its batches that wait to be summed, what they come to is carried over (`state`).
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    num_samples: int = 0
    pending: list[tuple[dict[str, Tensor], Tensor, Tensor | None]] = field(default_factory=list)
    carried: "Carried" = field(default_factory=lambda: Carried())

    def add(self, losses: dict[str, Tensor], logits: Tensor, y: Tensor | None) -> None:
        """Add one batch: the means of its losses, its logits [n, k], its labels [n] or class probabilities [n, k].

        A batch has no accuracy where all batches come without labels.
        """
        if len(self.carried.counts) + len(self.pending) == BATCHES_AT_ONCE:
            self._sum_up()
        self.pending.append(({name: loss.detach() for name, loss in losses.items()}, logits.detach(), y))
        self.num_samples += len(logits)

    def take_back(self) -> None:
        """Forget the batch that was added last; there was none since that asked for the sums."""
        _, logits, _ = self.pending.pop()
        self.num_samples -= len(logits)

    def means(self) -> dict[str, float]:
        """The mean losses and the accuracy over all samples added."""
        self._sum_up()
        return {name: float(total) / self.num_samples for name, total in self.sums.items()}

    def state(self) -> dict[str, Any]:
        """All of it in plain values and tensors, for `resumed`."""
        return {"sums": self.sums, "num_samples": self.num_samples, "carried": vars(self._waiting())}

    @classmethod
    def resumed(cls, state: dict[str, Any], device: torch.device) -> "Tally":
        """The tally of that state, on the device."""

        def there(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        carried = state["carried"]
        losses, correct = there(carried["losses"]), carried["correct"]
        correct = None if correct is None else correct.to(device)
        return cls(there(state["sums"]), state["num_samples"], [], Carried(losses, carried["counts"], correct))

    def _waiting(self) -> "Carried":
        """What the batches come to that wait to be summed."""
        if not self.pending:
            return self.carried
        losses, logits, y = zip(*self.pending, strict=True)
        correct = None if y[0] is None else num_correct(torch.cat(logits), torch.cat(y))
        own = {name: torch.stack([batch[name].float() for batch in losses]) for name in losses[0]}
        before = self.carried
        if not before.counts:
            return Carried(own, [len(rows) for rows in logits], correct)
        together = {name: torch.cat([before.losses[name], values]) for name, values in own.items()}
        if correct is not None and before.correct is not None:
            correct = before.correct + correct
        return Carried(together, before.counts + [len(rows) for rows in logits], correct)

    def _sum_up(self) -> None:
        waiting = self._waiting()
        if not waiting.counts:
            return
        self.pending, self.carried = [], Carried()
        device = next(iter(waiting.losses.values())).device
        counts = torch.tensor(waiting.counts, dtype=torch.float32, device=device)
        sums = {} if waiting.correct is None else {"accuracy": waiting.correct}
        for name, losses in waiting.losses.items():
            sums[name] = losses @ counts
        self.sums = {name: self.sums[name] + new if name in self.sums else new for name, new in sums.items()}


@dataclass(frozen=True)
class Carried:
    """Batches of an epoch that wait to be summed: their losses [m] by name, their sizes, how many are right in all."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    correct: Tensor | None = None  # None where the batches come without labels


def num_correct(logits: Tensor, y: Tensor) -> Tensor:
    """How many rows have their largest logit at the (most probable) label.

    `logits` is [n, k]; `y` is [n] class indices or [n, k] class probabilities.
    """
    labels = y.argmax(dim=1) if y.ndim == 2 else y
    return (logits.argmax(dim=1) == labels).sum()


def seed_global_generators(seed: int, device: torch.device) -> None:
    """Seed the CPU's generator and the device's.

    `torch.manual_seed` would also queue a call, with its stack trace, for every CUDA device that is not in use.
    """
    torch.default_generator.manual_seed(seed)
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).manual_seed(seed)


def kept_generators(device: torch.device) -> AbstractContextManager[None]:
    """A context that leaves the global generators of the CPU and of a CUDA device as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def network_outputs(network: Network, x: Tensor, cut: int) -> Outputs:
    """Run the network on inputs [n, c, h, w], or on what the backbone's first `cut` layer groups made of them."""
    features = network.features(x, cut)
    return Outputs(logits=network.head(features), features=features)


class Losses(NamedTuple):
    """A batch's total loss, the weighted terms it sums up, its logits [n, k] and its labels as the view has them."""

    total: Tensor
    terms: dict[str, Tensor]
    logits: Tensor
    y: Tensor | None  # None where the batch came without
    figures: dict[str, Tensor] | None = None  # scalars that are logged beside the terms and are no part of the loss


def summed(terms: dict[str, Tensor]) -> Tensor:
    """The total of a loss' terms."""
    return reduce(add, terms.values())


def parts_of(batch: LabelledBatch, most: int) -> list[LabelledBatch]:
    """A batch in parts of at most `most` samples."""
    fields = (batch.x, batch.y, batch.positions)
    return [LabelledBatch(*part) for part in zip(*(in_parts(field, most) for field in fields), strict=True)]


class GraftModule(LightningModule):
    """Trains what one phase of a strategy says is trained.

    Every random draw of a step comes from a seed made of the stage's seed, the epoch and the batch, so that an epoch
    can be repeated after an interruption and gives the same weights.
    """

    def __init__(
        self,
        network: Network,
        objective: Objective,
        phase: ResolvedPhase,
        optimizer: Callable[..., Optimizer],
        schedule: Schedule,
        view: BatchView,
        span: Span,
        seed: int,
        regularisation: Regularisation | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.regularisation = regularisation
        self.objective = objective
        self.phase = phase
        self.optimizer_factory = optimizer
        self.schedule = schedule
        self.view = view
        self.span = span
        self.seed = seed
        self.cut = 0  # layer groups of the backbone that the data have been through
        self.stage_epochs = span.epochs  # the most that the stage has, over all phases
        self.carried_state: dict[str, Any] | None = None
        self.tally_so_far: dict[str, Any] | None = None  # of the epoch in whose middle the fit begins
        self.micro_batch: int | None = None  # samples that are trained on at once; None: a batch as it is
        self._at_once = 0  # ... in the step that is being taken
        self._in_tally = False  # whether the tally has that step's batch
        self._statistics: list[Tensor] = []  # running ones that training moves
        self._statistics_before: list[Tensor] = []  # what they were before the step
        self._evaluated = Fitting(self._evaluation_logits)
        self._train_tally = Tally()
        self._val_tally = Tally()

    def configure_optimizers(self) -> Optimizer:
        """One parameter group for each layer group, rate and decay; state carried over from the phase before."""
        beside = dict(self.regularisation.named_parameters(REGULARISATION[:-1])) if self.regularisation else None
        optimizer = make_optimizer(self.network, self.phase, self.optimizer_factory, beside)
        if self.carried_state is not None:
            restore_optimizer_state(optimizer, self.carried_state)
        if self.regularisation is not None:
            optimizer.register_step_post_hook(self._after_step)
        return optimizer

    def _after_step(self, *_: object) -> None:
        """Tell the regularisers which of the stage's steps the optimiser has taken; the trainer does not count it yet.

        A hook of the optimiser, whose step is the one call that every way to train makes.
        """
        assert self.regularisation is not None
        steps_before = self.phase.first_epoch * self.steps_per_epoch + self.trainer.global_step
        self.regularisation.after_step(self.network, steps_before + 1, self.stage_epochs * self.steps_per_epoch)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put back what a checkpoint leaves out: weights that this network has from the start of the stage."""
        left_out = [PREFIX + name for name in checkpoint["stage"]["untouched"]]
        own = self.state_dict()
        checkpoint["state_dict"] |= {name: own[name] for name in left_out}

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return math.ceil(int(self.trainer.num_training_batches) / self.trainer.accumulate_grad_batches)

    @property
    def stage_epoch(self) -> int:
        """Epochs of the stage that lie behind, over all phases."""
        return self.phase.first_epoch + self.current_epoch

    def on_train_start(self) -> None:
        """The modes are the same in every epoch of a phase."""
        keep_freed_memory()
        self._train_modes = train_modes(self.network, self.phase)
        moving = [module for module, mode in self._train_modes.items() if mode and has_statistics(module)]
        self._statistics = [buffer for module in moving for buffer in module.buffers(recurse=False)]
        self._statistics_before = [torch.empty_like(buffer) for buffer in self._statistics]
        if self.regularisation is not None:
            self.regularisation.settle(self.device, self.network.dtype)
        if self.tally_so_far is not None:  # the trainer does not start an epoch that it is in the middle of
            self._begin_epoch(Tally.resumed(self.tally_so_far, self.device))

    def on_fit_end(self) -> None:
        """Let go of parts of a network that may have been a copy for the fit alone."""
        self._train_modes, self._statistics, self._statistics_before = {}, [], []

    def on_train_epoch_start(self) -> None:
        """Modes are set here because Lightning puts them back after every validation."""
        self._begin_epoch(Tally())

    def _begin_epoch(self, tally: Tally) -> None:
        set_train_modes(self._train_modes)
        self._train_tally, self._val_tally = tally, Tally()
        self._steps_before = self.span.epochs_done * self.steps_per_epoch
        self._steps_in_span = self.span.epochs * self.steps_per_epoch

    def on_train_batch_start(self, batch: LabelledBatch, batch_idx: int) -> None:
        """Set the learning rates of the coming step from their closed form, and note what a repetition goes back to."""
        if self._statistics:
            torch._foreach_copy_(self._statistics_before, self._statistics)
        factor = self.schedule(self._steps_before + self.trainer.global_step, self._steps_in_span)
        set_learning_rates(self.trainer.optimizers[0], factor)

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> Tensor:
        """The objective's total on one batch."""
        self._in_tally = False
        losses = self.training_losses(batch, batch_idx)
        terms = losses.terms if len(losses.terms) > 1 else {}
        self._train_tally.add({"loss": losses.total} | terms | (losses.figures or {}), losses.logits, losses.y)
        self._in_tally = True
        return losses.total

    def training_losses(self, batch: LabelledBatch, batch_idx: int) -> Losses:
        """What the objective and the regularisers say of one batch, in its training view."""
        seed = stable_seed(self.seed, self.stage_epoch, batch_idx, self.global_rank)
        seed_global_generators(seed, self.device)  # dropout and its kind
        second = self._second_view(batch, seed)
        batch = self.view.train(batch, torch.Generator(self.device).manual_seed(seed))
        self._at_once = min(self.micro_batch or len(batch.x), len(batch.x))
        return self._losses(batch, second) if self._at_once == len(batch.x) else self._losses_in_parts(batch)

    def _losses(self, batch: LabelledBatch, second: Tensor | None = None) -> Losses:
        outputs, regularisers = self._outputs(batch, second)
        terms = self.objective(outputs, batch.y, self.progress)
        assert terms.keys().isdisjoint(regularisers), "a regulariser has the name of a term of the objective"
        terms = terms | regularisers
        return Losses(summed(terms), terms, outputs.logits, batch.y)

    def _losses_in_parts(self, batch: LabelledBatch) -> Losses:
        """The same, with the gradients known already: those of the parts are added up, weighted by their sizes.

        No more than one part's activations are held at a time.
        """
        trained = [parameter for group in self.trainer.optimizers[0].param_groups for parameter in group["params"]]
        gradients: list[Tensor | None] = [None] * len(trained)  # None: the loss does not depend on that parameter
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler is not None else 1.0  # small gradients vanish in half precision
        terms: dict[str, Tensor] = {}
        logits = []
        for part in parts_of(batch, self._at_once):
            losses, share = self._losses(part), len(part.x) / len(batch.x)
            with torch.autocast(self.device.type, enabled=False):
                found = torch.autograd.grad(losses.total * (share * scale), trained, allow_unused=True)
            for position, gradient in enumerate(found):
                if gradient is not None:
                    so_far = gradients[position]
                    gradients[position] = gradient / scale if so_far is None else so_far.add_(gradient, alpha=1 / scale)
            weighted = {name: term.detach() * share for name, term in losses.terms.items()}
            terms = {name: terms[name] + term for name, term in weighted.items()} if terms else weighted
            logits.append(losses.logits.detach())
        return Losses(with_gradients(summed(terms), trained, gradients), terms, torch.cat(logits), batch.y)

    def lower_micro_batch(self, error: BaseException) -> None:
        """Make ready to repeat the step that ran out of memory on half as many samples at once.

        Where norm layers keep running statistics, each part is normalised by its own, and moves them.

        Raises:
            UserError: the step is no mean over samples, or there was one alone.
        """
        if reason := self.whole_batch:
            raise UserError(
                f"out of memory with {self._at_once} samples in a batch, which cannot be taken in parts: {reason}; "
                "lower batch_size"
            ) from error
        half = half_of(self._at_once)
        log.warning(
            "out of memory with %d samples at once; from here on gradients of at most %d are added up to a batch's%s",
            *(self._at_once, half, "; batch norm sees as many at a time" if self._statistics else ""),
        )
        self.micro_batch = half
        if self._in_tally:
            self._train_tally.take_back()
        if self._statistics:
            torch._foreach_copy_(self._statistics, self._statistics_before)
        for parameter in self.parameters():
            parameter.grad = None

    @property
    def whole_batch(self) -> str:
        """Why a batch has to go through the network in one piece; empty where it does not."""
        if self.trainer.world_size > 1:
            return "several processes take each step together"
        if self.trainer.accumulate_grad_batches > 1:
            return "trainer.accumulate_grad_batches adds up gradients of several already"
        if self.regularisation is not None and (names := self.regularisation.of_whole_batch):
            return f"{', '.join(names)} looks at the batch as a whole"
        return ""

    def _second_view(self, batch: LabelledBatch, seed: int) -> Tensor | None:
        """Another training view of a batch where a regulariser asks for one; where views are fixed, the same."""
        if self.regularisation is None or not self.regularisation.wants_second_view:
            return None
        generator = torch.Generator(self.device).manual_seed(stable_seed(seed, "second view"))
        return self.view.train(batch, generator).x

    def _outputs(self, batch: LabelledBatch, second: Tensor | None) -> tuple[Outputs, dict[str, Tensor]]:
        """The network's outputs for a batch of training, and the regularisers' terms."""
        if self.regularisation is None:
            return network_outputs(self.network, batch.x, self.cut), {}
        trace = self.regularisation.trace(self.network, batch.x, self.cut)
        outputs = Outputs(logits=self.network.head(trace.features), features=trace.features)
        start = self.regularisation.starting_trace(batch.x, self.cut)
        return outputs, self.regularisation(
            Step(self.network, batch.y, outputs, trace, start, second, self.cut, progress=self.progress)
        )

    @property
    def progress(self) -> float:
        """Share of the schedule's optimiser steps that lie behind, in [0, 1]."""
        return (self._steps_before + self.trainer.global_step) / max(1, self._steps_in_span)

    def on_validation_epoch_start(self) -> None:
        """Start a new tally."""
        self._val_tally = Tally()

    def validation_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        """Loss and accuracy under the evaluation view; never the adaptation terms."""
        logits = self._evaluated(batch.x)
        loss = torch.nn.functional.cross_entropy(logits, batch.y)
        self._val_tally.add({"loss": loss}, logits, batch.y)

    def _evaluation_logits(self, x: Tensor) -> Tensor:
        return network_outputs(self.network, self.view.evaluate(x), self.cut).logits

    def on_validation_epoch_end(self) -> None:
        """Publish the validation metrics to whoever monitors them."""
        metrics = {f"val/{name}": mean for name, mean in self._val_tally.means().items()}
        # Every rank validates the whole split, so there is nothing to reduce; said in the two words that together
        # reduce nothing and warn of nothing.
        self.log_dict(metrics, sync_dist=True, rank_zero_only=True, logger=False)

    def tally_state(self) -> dict[str, Any]:
        """What the epoch's batches of training came to so far, for `tally_so_far`."""
        return self._train_tally.state()

    @property
    def epoch_metrics(self) -> dict[str, float]:
        """Means over the epoch's batches so far: `train/loss`, `train/accuracy`, `val/loss`, `val/accuracy`."""
        tallies = {"train": self._train_tally, "val": self._val_tally}
        return {f"{split}/{name}": mean for split, tally in tallies.items() for name, mean in tally.means().items()}
