"""Lightning's training epoch, with less around every step where nobody asks for more."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from pytorch_lightning.loops.optimization.automatic import Closure, ClosureResult, _AutomaticOptimization
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from graft.memory import until_it_fits

BatchHook = Callable[..., Any]

# What Lightning calls within a step, between its first and its last hook.
INNER_HOOKS = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
INNER_MODULE_HOOKS = (
    *INNER_HOOKS,
    "on_train_batch_end",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "optimizer_zero_grad",
    "backward",
    "optimizer_step",
    "configure_gradient_clipping",
)


class FittingClosure(Closure):
    """Forward and backward pass, repeated with smaller micro-batches where memory does not suffice."""

    module: Any

    def closure(self, *args: Any, **kwargs: Any) -> ClosureResult:
        """One step's gradients."""
        return until_it_fits(self.module, partial(super().closure, *args, **kwargs))


class Optimization(_AutomaticOptimization):
    """Lightning's own, with that closure."""

    def _make_closure(self, kwargs: "OrderedDict[str, Any]", optimizer: Optimizer, batch_idx: int) -> Closure:
        parts = self._make_step_fn(kwargs), self._make_backward_fn(optimizer)
        closure = FittingClosure(*parts, self._make_zero_grad_fn(batch_idx, optimizer))
        closure.module = self.trainer.lightning_module
        return closure


class EpochLoop(_TrainingEpochLoop):
    """Takes the steps of a plain training directly: one device, one optimiser, no accumulation, clipping or profiler.

    Such a step is what Lightning's own comes down to, in the same order and with the same counters, but only hooks that
    somebody has overridden are called. Around a small network Lightning's generality takes longer than the step. Any
    other training goes through Lightning's `advance`.
    """

    _batch_hooks: tuple[list[BatchHook], list[BatchHook]] | None = None

    def __init__(self, trainer: Trainer, min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.automatic_optimization = Optimization(trainer)

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Decide for the coming epoch."""
        super().on_run_start(data_fetcher)
        plain = not isinstance(data_fetcher, _DataLoaderIterDataFetcher) and is_plain(self.trainer)
        self._batch_hooks = batch_hooks(callbacks_of(self.trainer)) if plain else None

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Train on one batch."""
        if self._batch_hooks is None or self.restarting:
            super().advance(data_fetcher)
            return
        trainer, module, progress = self.trainer, self.trainer.lightning_module, self.batch_progress
        start_hooks, end_hooks = self._batch_hooks
        batch, _, _ = next(data_fetcher)
        progress.is_last_batch = data_fetcher.done
        batch = on_device(batch, trainer.strategy.root_device)
        batch_index = self.batch_idx + 1
        progress.increment_ready()
        for hook in start_hooks:
            hook(trainer, module, batch, batch_index)
        module.on_train_batch_start(batch, batch_index)
        progress.increment_started()
        loss = self._step(batch, batch_index)
        progress.increment_processed()
        for hook in end_hooks:
            hook(trainer, module, {"loss": loss}, batch, batch_index)
        progress.increment_completed()

    def _step(self, batch: Any, batch_index: int) -> Tensor:
        """Forward, backward and the optimiser's step; the loss without its graph."""
        step = self.automatic_optimization.optim_progress.optimizer.step
        step.increment_ready()
        loss = until_it_fits(self.trainer.lightning_module, partial(self._gradients, batch, batch_index))
        self.trainer.optimizers[0].step()
        step.increment_completed()
        return loss

    def _gradients(self, batch: Any, batch_index: int) -> Tensor:
        """Forward and backward; the loss without its graph."""
        trainer, progress = self.trainer, self.automatic_optimization.optim_progress.optimizer
        with trainer.precision_plugin.forward_context():
            loss = trainer.lightning_module.training_step(batch, batch_index)
        assert isinstance(loss, Tensor)
        progress.zero_grad.increment_ready()
        progress.zero_grad.increment_started()
        for group in trainer.optimizers[0].param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        progress.zero_grad.increment_completed()
        loss.backward()
        return loss.detach()


def use_epoch_loop(trainer: Trainer) -> None:
    """Let the trainer's fits run through `EpochLoop`."""
    loop = trainer.fit_loop.epoch_loop
    trainer.fit_loop.epoch_loop = EpochLoop(trainer, loop.min_steps, loop.max_steps)


def is_plain(trainer: Trainer) -> bool:
    """Whether a step of this trainer is a forward pass, a backward pass and an optimiser's step, and nothing else."""
    precision = trainer.precision_plugin
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and (type(precision) is Precision or (type(precision) is MixedPrecision and precision.scaler is None))
        and type(trainer.profiler) is PassThroughProfiler  # type: ignore[attr-defined]
        and trainer.accumulate_grad_batches == 1
        and not trainer.gradient_clip_val
        and not trainer.lr_scheduler_configs
        and trainer.lightning_module.automatic_optimization
        and not isinstance(trainer.optimizers[0], torch.optim.LBFGS)
        and not any(is_overridden(hook, callback) for callback in callbacks_of(trainer) for hook in INNER_HOOKS)
        and not any(is_overridden(hook, trainer.lightning_module) for hook in INNER_MODULE_HOOKS)
    )


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The trainer's callbacks."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def batch_hooks(callbacks: list[Callback]) -> tuple[list[BatchHook], list[BatchHook]]:
    """What the callbacks do before and after every batch."""
    starts, ends = (
        [getattr(callback, hook) for callback in callbacks if is_overridden(hook, callback)]
        for hook in ("on_train_batch_start", "on_train_batch_end")
    )
    return starts, ends


def on_device(batch: Any, device: torch.device) -> Any:
    """A batch, which is a named tuple of tensors and of batches, on the device."""
    if device.type == "cpu" or batch is None:
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    return type(batch)(*(on_device(part, device) for part in batch))
