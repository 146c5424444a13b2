"""What the shipped strategies do with a network of three layer groups, written out."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from torch.optim import AdamW

from graft.models.network import Network
from graft.strategies.engine import apply_phase, make_optimizer
from graft.strategies.phases import Strategy

# The learning rate of conv weight, conv bias, norm weight, norm bias of stem, stage1 and stage2, then weight and bias
# of the head, as multiples of the optimiser's; 0: frozen.
FROZEN, TRAINED = (0, 0, 0, 0), (1, 1, 1, 1)
EXPECTED: dict[str, list[tuple[str, int, tuple[tuple[float, ...], ...]]]] = {
    "scratch": [("train", 20, (TRAINED, TRAINED, TRAINED, (1, 1)))],
    "fine_tune": [("fine_tune", 20, (TRAINED, TRAINED, TRAINED, (1, 1)))],
    "linear_probe": [("probe", 20, (FROZEN, FROZEN, FROZEN, (1, 1)))],
    "lp_ft": [
        ("probe", 10, (FROZEN, FROZEN, FROZEN, (1, 1))),
        ("fine_tune", 10, (TRAINED, TRAINED, TRAINED, (1, 1))),
    ],
    "gradual_unfreeze": [
        ("head", 4, (FROZEN, FROZEN, FROZEN, (1, 1))),
        ("from_stage2", 2, (FROZEN, FROZEN, TRAINED, (1, 1))),
        ("from_stage1", 2, (FROZEN, TRAINED, TRAINED, (1, 1))),
        ("from_stem", 12, (TRAINED, TRAINED, TRAINED, (1, 1))),
    ],
    "plateau_unfreeze": [
        ("head", 5, (FROZEN, FROZEN, FROZEN, (1, 1))),
        ("from_stage2", 5, (FROZEN, FROZEN, TRAINED, (1, 1))),
        ("from_stage1", 5, (FROZEN, TRAINED, TRAINED, (1, 1))),
        ("from_stem", 5, (TRAINED, TRAINED, TRAINED, (1, 1))),
    ],
    "discriminative": [("fine_tune", 20, ((0.421875,) * 4, (0.5625,) * 4, (0.75,) * 4, (1, 1)))],
    # 0.65, 0.65^2, 0.65^3 from the head down.
    "layer_decay": [("fine_tune", 20, ((0.274625,) * 4, (0.4225,) * 4, (0.65,) * 4, (1, 1)))],
    "ulmfit": [
        ("head", 1, (FROZEN, FROZEN, FROZEN, (1, 1))),
        ("from_stage2", 1, (FROZEN, FROZEN, (1 / 2.6,) * 4, (1, 1))),
        ("from_stage1", 1, (FROZEN, (1 / 2.6**2,) * 4, (1 / 2.6,) * 4, (1, 1))),
        ("from_stem", 17, ((1 / 2.6**3,) * 4, (1 / 2.6**2,) * 4, (1 / 2.6,) * 4, (1, 1))),
    ],
    "fastai_fine_tune": [
        ("frozen", 1, ((0, 0, 1, 1),) * 3 + ((1, 1),)),
        ("unfrozen", 19, ((0.005,) * 4, (0.5 * 0.01 ** (2 / 3),) * 4, (0.5 * 0.01 ** (1 / 3),) * 4, (0.5, 0.5))),
    ],
    "surgical": [("surgical", 20, (TRAINED, FROZEN, FROZEN, (1, 1)))],
    "surgical_auto": [("surgical", 20, (TRAINED, FROZEN, FROZEN, (1, 1)))],  # until it is measured
    "adabn": [("probe", 20, (FROZEN, FROZEN, FROZEN, (1, 1)))],
    "freeze_head": [("freeze_head", 20, (TRAINED, TRAINED, TRAINED, (0, 0)))],
    "last_stage": [("last_stage", 20, (FROZEN, FROZEN, TRAINED, (1, 1)))],
    "norm_only": [("norm_only", 20, ((0, 0, 1, 1),) * 3 + ((1, 1),))],
    "bias_only": [("bias_only", 20, ((0, 1, 0, 1),) * 3 + ((1, 1),))],
}
EXPECTED["plateau_unfreeze_best"] = EXPECTED["plateau_unfreeze"]
PLATEAU = {name: [True, True, True, False] for name in ("plateau_unfreeze", "plateau_unfreeze_best")}
RESTART = {"lp_ft": [False, True], "fastai_fine_tune": [False, True]}
FROM_BEST = {"plateau_unfreeze_best": [False, True, True, True]}
RECALIBRATED = {"adabn": [True]}
FIXED_VIEWS = {"adabn": [True], "linear_probe": [True], "lp_ft": [True, False]}
FIXED_STATISTICS = {"lp_ft": [False, True], "bias_only": [True]}


def shipped(conf: Path, name: str) -> Strategy:
    config = yaml.safe_load((conf / "strategy" / f"{name}.yaml").read_text())
    del config["_target_"]
    return Strategy(**config)


@pytest.mark.parametrize("name", EXPECTED)
def test_masks_and_rates(tiny: Network, conf: Path, name: str) -> None:
    phases = shipped(conf, name).resolve(tiny, max_epochs=20)
    assert [(phase.name, phase.max_epochs) for phase in phases] == [row[:2] for row in EXPECTED[name]]
    for phase, (_, _, by_group) in zip(phases, EXPECTED[name], strict=True):
        apply_phase(tiny, phase)
        optimizer = make_optimizer(tiny, phase, partial(AdamW, lr=1.0, weight_decay=0.01))
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        for path, _, parameter in tiny.named_group_parameters():
            undecayed = name == "layer_decay" and parameter.ndim == 1
            assert decays.get(id(parameter), 0.01) == (0.0 if undecayed else 0.01), path
        parameters = [parameter for _, _, parameter in tiny.named_group_parameters()]
        expected = [rate for group in by_group for rate in group]
        assert [rates.get(id(parameter), 0) for parameter in parameters] == pytest.approx(expected)
        assert [parameter.requires_grad for parameter in parameters] == [rate > 0 for rate in expected]


@pytest.mark.parametrize("name", EXPECTED)
def test_phase_settings(tiny: Network, conf: Path, name: str) -> None:
    phases = shipped(conf, name).resolve(tiny, max_epochs=20)
    no = [False] * len(phases)
    assert [phase.plateau is not None for phase in phases] == PLATEAU.get(name, no)
    assert [phase.restart for phase in phases] == RESTART.get(name, no)
    assert [not phase.augment for phase in phases] == FIXED_VIEWS.get(name, no)
    assert [phase.start_from == "best" for phase in phases] == FROM_BEST.get(name, no)
    assert [phase.recalibrate for phase in phases] == RECALIBRATED.get(name, no)
    assert [phase.norm_statistics == "eval" for phase in phases] == FIXED_STATISTICS.get(name, no)
    assert shipped(conf, name).initialize == ("scratch" if name == "scratch" else "source")


def test_every_shipped_strategy_is_written_out(conf: Path) -> None:
    assert EXPECTED.keys() == {path.stem for path in (conf / "strategy").glob("*.yaml")}


def test_norm_only_re_estimates_the_statistics_and_bias_only_does_not(tiny: Network, conf: Path) -> None:
    for name, drifts in (("norm_only", True), ("bias_only", False)):
        [phase] = shipped(conf, name).resolve(tiny, max_epochs=1)
        apply_phase(tiny, phase)
        before = tiny.backbone.stem.bn.running_mean.clone()
        tiny(torch.randn(8, 1, 6, 6))
        assert torch.equal(tiny.backbone.stem.bn.running_mean, before) != drifts


def test_a_pattern_written_twice_is_refused(conf: Path) -> None:
    text = (conf / "strategy" / "linear_probe.yaml").read_text() + "      'backbone\\..*': {lr_scale: 1}\n"
    with pytest.raises(yaml.constructor.ConstructorError, match="found duplicate key"):
        OmegaConf.create(text)


def test_hydras_containers_will_do(tiny: Network, conf: Path) -> None:
    config = OmegaConf.load(conf / "strategy" / "gradual_unfreeze.yaml")
    strategy = Strategy(config.name, config.phases, config.initialize)
    assert strategy.resolve(tiny, 20) == shipped(conf, "gradual_unfreeze").resolve(tiny, 20)
