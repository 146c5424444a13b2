"""All methods that compare two domains in one stage."""

from dataclasses import replace
from pathlib import Path

import torch
from builders import network, stage, tiny_domain, training
from paired_steps import method

from graft.callbacks.checkpoints import LAST, read_checkpoint
from graft.stage import fit_stage

NAMES = ("adda", "afn", "bsp", "cdan", "cdan_e", "coral", "dan", "dann", "jan", "mcd", "mdd", "swd", "wdgrl")


def test_all_together_and_what_they_learn_is_in_the_checkpoint(tmp_path: Path) -> None:
    source, target = tiny_domain(tmp_path, batch_size=8), tiny_domain(tmp_path, batch_size=5)
    how = replace(training(max_epochs=1), adaptation={name: method(name) for name in NAMES})
    fitted = fit_stage(replace(stage(tmp_path / "a", source, how), unlabelled=target), network("cnn"))
    assert all(torch.isfinite(tensor).all() for tensor in fitted.last.values())
    assert all(f"train/{name}" in fitted.history[0] for name in NAMES)
    for name in ("adda", "cdan", "cdan_e", "dann"):
        assert 0 <= fitted.history[0][f"train/{name}/domain_accuracy"] <= 1
    assert "train/wdgrl/wasserstein_distance" in fitted.history[0]
    assert all(f"lambda/{name}" in fitted.history[0] for name in NAMES)
    checkpoint = read_checkpoint(tmp_path / "a" / LAST)
    learned = {key.split(".")[2] for key in checkpoint["state_dict"] if key.startswith("regularisation.terms.")}
    assert learned == {"adda", "cdan", "cdan_e", "dann", "mcd", "mdd", "swd", "wdgrl"}
    assert "regularisation.terms.dann.discriminator.output.weight" in checkpoint["stage"]["optimizer"]["param_names"]
