"""Methods that remember train from images to a checkpoint, and go on from it as if nothing had happened."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import Interrupt, network, stage, tiny_domain, training, write_arrays
from conf_plugins import build, load
from pytorch_lightning import Callback

from graft.data.augment import Augmentation
from graft.data.domain import Domain
from graft.stage import Fitted, fit_stage

EPOCHS = 4


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Domain, Domain]:
    """A source, and a smaller target, which is gone through more than once in an epoch."""
    folders = [tmp_path_factory.mktemp(name) for name in ("source", "target")]
    for folder, num_per_class in zip(folders, (10, 6), strict=True):
        write_arrays(folder / "tiny.npz", num_per_class)
    source, target = (tiny_domain(folder, batch_size=7, augmentation=Augmentation(flip=True)) for folder in folders)
    return source, target


def fit(folder: Path, domains: tuple[Domain, Domain], name: str, callbacks: tuple[Callback, ...] = ()) -> Fitted:
    how = replace(
        training(max_epochs=EPOCHS, callbacks=callbacks), adaptation={name: build(load("adaptation", name)[name])}
    )
    source, target = domains
    return fit_stage(replace(stage(folder, source, how), unlabelled=target), network("cnn"))


@pytest.mark.parametrize("name", ["atdoc", "mean_teacher", "nrc", "shot"])
def test_resumed_is_bit_equal(tmp_path: Path, domains: tuple[Domain, Domain], name: str) -> None:
    undisturbed = fit(tmp_path / "a", domains, name)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "b", domains, name, (Interrupt(EPOCHS - 1),))
    resumed = fit(tmp_path / "b", domains, name)
    assert all(torch.equal(resumed.last[key], undisturbed.last[key]) for key in undisturbed.last)
    losses = [[row["train/loss"] for row in fitted.history] for fitted in (undisturbed, resumed)]
    assert len(losses[0]) == EPOCHS
    assert losses[0] == losses[1]
