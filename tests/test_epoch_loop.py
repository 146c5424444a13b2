"""The direct way through an epoch: as Lightning's own goes, and only where nobody asks for more."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import network, stage, tiny_domain, training
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from graft import epoch_loop
from graft.callbacks.checkpoints import LAST, read_checkpoint
from graft.epoch_loop import EpochLoop
from graft.stage import Fitted, fit_stage

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


class Note(Callback):
    """Notes every hook around a batch, in order."""

    def __init__(self) -> None:
        self.called: list[tuple[str, int, int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.called.append(("start", batch_idx, trainer.global_step))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert not outputs["loss"].requires_grad
        self.called.append((f"end {float(outputs['loss'])}", batch_idx, trainer.global_step))


class Inner(Callback):
    """Looks at gradients."""

    def __init__(self) -> None:
        self.steps = 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        assert all(p.grad is not None for p in pl_module.parameters() if p.requires_grad)
        self.steps += 1


def fitted(folder: Path, *callbacks: Callback, optimizer: Any = SGD, strategy: str = "lp_ft", **trainer: Any) -> Fitted:
    how = training(strategy, 4, optimizer, callbacks=callbacks, **trainer)
    return fit_stage(stage(folder / "stage", tiny_domain(folder), how), network("resnet20"))


@pytest.fixture
def directly(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each batch so far went the direct way."""
    seen: list[bool] = []
    advance = EpochLoop.advance

    def watched(loop: EpochLoop, data_fetcher: Any) -> None:
        seen.append(loop._batch_hooks is not None)
        advance(loop, data_fetcher)

    monkeypatch.setattr(EpochLoop, "advance", watched)
    return seen


def without_seconds(state: Any) -> Any:
    """Plain values of a checkpoint but those that a clock gave."""
    if isinstance(state, dict):
        return {key: without_seconds(value) for key, value in state.items() if key not in ("seconds", "path")}
    if isinstance(state, list | tuple):
        return [without_seconds(value) for value in state]
    return state.tolist() if isinstance(state, torch.Tensor) else state


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_weights_checkpoints_and_hooks_are_those_of_lightnings_own_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directly: list[bool], precision: str
) -> None:
    ours, theirs = Note(), Note()
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    a = fitted(tmp_path / "ours", ours, precision=precision)
    assert directly
    assert all(directly)
    monkeypatch.setattr(epoch_loop, "is_plain", lambda trainer: False)
    b = fitted(tmp_path / "theirs", theirs, precision=precision)
    assert not directly[-1]
    assert all(torch.equal(a.last[name], b.last[name]) for name in b.last)
    assert ours.called == theirs.called
    checkpoints = [read_checkpoint(tmp_path / name / "stage" / LAST) for name in ("ours", "theirs")]
    assert without_seconds(checkpoints[0]) == without_seconds(checkpoints[1])


def test_averaged_weights_go_the_direct_way(tmp_path: Path, directly: list[bool]) -> None:
    fitted(tmp_path, EMAWeightAveraging(decay=0.9), strategy="fine_tune")
    assert all(directly)


def test_a_hook_within_the_step_is_called(tmp_path: Path, directly: list[bool]) -> None:
    inner = Inner()
    result = fitted(tmp_path, inner)
    assert not any(directly)
    assert inner.steps == result.steps


@pytest.mark.parametrize(
    "asked",
    [
        {"gradient_clip_val": 0.1},
        {"accumulate_grad_batches": 2},
        {"profiler": "simple"},
        {"precision": "bf16-true"},
        {"optimizer": partial(torch.optim.LBFGS, lr=0.1), "strategy": "fine_tune"},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_whatever_more_is_asked_goes_lightnings_way(
    tmp_path: Path, directly: list[bool], asked: dict[str, Any]
) -> None:
    fitted(tmp_path, **asked)
    assert directly
    assert not any(directly)


def test_lightning_has_the_hooks_that_decide() -> None:
    for hook in epoch_loop.INNER_HOOKS:
        assert hasattr(Callback, hook)
    for hook in epoch_loop.INNER_MODULE_HOOKS:
        assert hasattr(LightningModule, hook)
    assert issubclass(EpochLoop, _TrainingEpochLoop)
