"""Checkpoints within epochs: a stage that goes on from any step ends as if nothing had happened."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import network, stage, tiny_domain, training
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging

from graft.adaptation.dann import DANN
from graft.adaptation.shot import SHOT
from graft.callbacks.swa import StochasticWeightAveraging
from graft.data.augment import Augmentation
from graft.features import FeatureCache
from graft.records.store import Store
from graft.regularisers.bi_tuning import BiTuning
from graft.stage import Fitted, fit_stage


class Cut(Callback):
    """Ends the process' work before a step of the stage, counted from 0, unless it begins the fit."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if pl_module.stage_epoch * trainer.num_training_batches + batch_idx == self.step:
            raise RuntimeError("cut off")


class Count(Callback):
    """Counts steps."""

    num = 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.num += 1


def fit(folder: Path, how: str, *callbacks: Callback, epochs: int = 4, **settings: Any) -> Fitted:
    """A stage that is saved after every step."""
    folder.mkdir(exist_ok=True)
    terms = {name: settings.pop(name) for name in ("regularisers", "adaptation") if name in settings}
    averaging = settings.pop("averaging", None)
    data = settings.pop("data", {})
    cached = settings.pop("cached", False)
    trained = replace(training(how, epochs, **settings), save_every=0.0, **terms)
    trained = replace(trained, callbacks=lambda: [*([averaging()] if averaging else []), *callbacks])
    domain = tiny_domain(folder, **data)
    cache = FeatureCache(Store(folder / "store"), 2**30) if cached else None
    whole = stage(folder / "stage", domain, trained, cache=cache)
    if "adaptation" in terms:
        whole = replace(whole, unlabelled=tiny_domain(folder, batch_size=9))
    return fit_stage(whole, network("resnet20"))


def same(a: Fitted, b: Fitted) -> bool:
    """Whether weights and histories are equal bit by bit."""
    states = all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
        for x, y in ((a.last, b.last), (a.best, b.best))
    )
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in fitted.history] for fitted in (a, b)]
    return states and rows[0] == rows[1]


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "thawing": ("gradual_unfreeze", {"epochs": 5, "data": {"augmentation": Augmentation(crop_padding=2)}}),
    "features": ("linear_probe", {"cached": True}),
    "workers": ("fine_tune", {"data": {"num_workers": 1}, "epochs": 2}),
    "ema": ("fine_tune", {"averaging": partial(EMAWeightAveraging, decay=0.9)}),
    "swa": ("fine_tune", {"averaging": partial(StochasticWeightAveraging, start=0.25)}),
    "bi_tuning": ("lp_ft", {"regularisers": {"bi_tuning": BiTuning()}}),
    "dann": ("fine_tune", {"adaptation": {"dann": DANN()}}),
    "shot": ("freeze_head", {"adaptation": {"shot": SHOT()}}),
    "accumulation": ("fine_tune", {"accumulate_grad_batches": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_cut_off_at_any_step_is_bit_equal_to_undisturbed(tmp_path: Path, case: str) -> None:
    how, settings = CASES[case]
    whole = fit(tmp_path / "whole", how, **settings)
    num_steps, count = len(whole.history), Count()
    for cut in (1, 4, 5):  # of three batches an epoch, or six
        with pytest.raises(RuntimeError, match="cut off"):
            fit(tmp_path / "cut", how, Cut(cut), count, **settings)
    again = fit(tmp_path / "cut", how, count, **settings)
    assert same(whole, again)
    assert num_steps == len(again.history)
