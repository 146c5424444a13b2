"""SIGTERM: a fit is saved at its next step and goes on from there; what has nothing to save ends at once."""

import os
import signal
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from builders import network, stage, tiny_domain, training
from pytorch_lightning import Callback, LightningModule, Trainer

from graft import preemption
from graft.callbacks.checkpoints import LAST, read_checkpoint
from graft.preemption import EXIT_CODE, PreemptedError, also_asked, asked, deferred, listening, prompt
from graft.stage import Fitted, fit_stage


class Sigterm(Callback):
    """There is a SIGTERM in a batch of the second epoch, counted from 0; `validation`: in its validation."""

    def __init__(self, batch: int, validation: bool = False) -> None:
        self.batch, self.validation = batch, validation

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self.validation and trainer.current_epoch == 1 and batch_idx == self.batch:
            signal.raise_signal(signal.SIGTERM)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.validation and trainer.current_epoch == 1:
            signal.raise_signal(signal.SIGTERM)


def fit(folder: Path, *callbacks: Callback, **trainer: Any) -> Fitted:
    folder.mkdir(exist_ok=True)
    how = training("fine_tune", 3, callbacks=callbacks, **trainer)
    return fit_stage(stage(folder / "stage", tiny_domain(folder, val_fraction=0.4), how), network())


@pytest.mark.parametrize(
    ("callback", "batches", "settings"),
    [
        (Sigterm(0), 1, {}),
        (Sigterm(2), None, {}),  # the epoch's last batch
        (Sigterm(0), 2, {"accumulate_grad_batches": 2}),
        (Sigterm(0, validation=True), None, {}),
    ],
    ids=["step", "last step", "accumulation", "validation"],
)
def test_a_fit_is_saved_at_its_next_step_and_goes_on(
    tmp_path: Path, callback: Callback, batches: int | None, settings: dict[str, Any]
) -> None:
    whole = fit(tmp_path / "whole", **settings)
    with pytest.raises(SystemExit), listening():  # Lightning's, which `interrupts` takes back
        fit(tmp_path / "cut", callback, **settings)
    left = read_checkpoint(tmp_path / "cut" / "stage" / LAST)["stage"]
    assert len(left["history"]) == (1 if batches else 2)
    assert (left["within_epoch"] or {}).get("batches") == batches
    again = fit(tmp_path / "cut", **settings)
    assert all(torch.equal(whole.last[name], again.last[name]) for name in whole.last)
    assert [row["train/loss"] for row in whole.history] == [row["train/loss"] for row in again.history]


def test_a_signal_is_heard_within_the_block_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError), listening():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not asked()


def test_whoever_is_at_work_finds_the_moment() -> None:
    heard, reached = [], []

    def work() -> None:
        with listening(), deferred(lambda: heard.append(1)):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # some schedulers ask twice
            assert asked()
            reached.append(1)

    with pytest.raises(PreemptedError):
        work()
    assert heard == reached == [1]


def test_within_what_is_deferred_some_of_it_may_not_be() -> None:
    reached = []

    def work() -> None:
        with listening(), deferred(), prompt():
            signal.raise_signal(signal.SIGTERM)
            reached.append(1)

    with pytest.raises(PreemptedError):
        work()
    assert not reached


def test_another_process_may_have_been_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "LOOK_EVERY", 0.0)
    answers = [False, True]
    with listening(), also_asked(lambda: answers.pop(0)):
        assert [asked(), asked(), asked()] == [False, True, True]


def test_it_ends_within_the_time_stated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ended, code = Event(), []

    def leave(number: int) -> None:
        code.append(number)
        ended.set()

    monkeypatch.setattr(preemption, "GRACE", 0.01)
    monkeypatch.setattr(preemption.os, "_exit", leave)

    def work() -> None:
        with listening(), deferred():
            signal.raise_signal(signal.SIGTERM)
            assert ended.wait(30)

    with pytest.raises(PreemptedError):
        work()
    assert code == [EXIT_CODE]
    assert "ends at once" in capsys.readouterr().err


def test_a_thread_hears_no_signals() -> None:
    before, after = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with listening():
            after.append(signal.getsignal(signal.SIGTERM))

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert after == [before]


def test_a_forked_child_is_ended_by_its_parent() -> None:
    with listening():
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
