from typing import Any

import torch

from graft.models.heads.ridge import RidgeHead
from graft.models.mappings.affine import AffineMapping
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network
from graft.strategies.phases import Strategy
from graft.strategies.plan import plan_table

COLUMNS = ("phase", "first_epoch", "epochs", "group", "num_parameters", "state", "lr", "weight_decay", "norm")

STRATEGY = Strategy(
    "plan",
    [
        {"name": "head", "until": {"plateau": None}, "rules": {r"(mapping|head)\..*": {}, ".*": None}},
        {
            "name": "rest",
            "rules": {
                r"(mapping|head)\..*": {"lr_scale": 10},
                r"backbone\.<0>\..*": None,
                r".*\.bn\.bias": None,
                r".*\.bn\..*": {"weight_decay": 0},
                ".*": {},
            },
        },
    ],
)


def table(network: Network) -> list[tuple[Any, ...]]:
    rows = plan_table(network, STRATEGY.resolve(network, 6), lr=0.1, weight_decay=0.5)
    return [tuple(row[column] for column in COLUMNS) for row in rows]


def test_plan(tiny: Network) -> None:
    network = Network(tiny.backbone, AffineMapping(4), tiny.head)
    assert table(network) == [
        ("head", 0, 3, "backbone.stem", 24, "frozen", None, None, "eval"),
        ("head", 0, 3, "backbone.stage1", 42, "frozen", None, None, "eval"),
        ("head", 0, 3, "backbone.stage2", 84, "frozen", None, None, "eval"),
        ("head", 0, 3, "mapping", 20, "trained", 0.1, 0.5, None),
        ("head", 0, 3, "head", 15, "trained", 0.1, 0.5, None),
        ("rest", 3, 3, "backbone.stem", 24, "frozen", None, None, "eval"),
        ("rest", 3, 3, "backbone.stage1", 38, "trained", 0.1, 0.5, "train"),
        ("rest", 3, 3, "backbone.stage1", 2, "trained", 0.1, 0.0, "train"),
        ("rest", 3, 3, "backbone.stage1", 2, "frozen", None, None, "train"),
        ("rest", 3, 3, "backbone.stage2", 76, "trained", 0.1, 0.5, "train"),
        ("rest", 3, 3, "backbone.stage2", 4, "trained", 0.1, 0.0, "train"),
        ("rest", 3, 3, "backbone.stage2", 4, "frozen", None, None, "train"),
        ("rest", 3, 3, "mapping", 20, "trained", 1.0, 0.5, None),
        ("rest", 3, 3, "head", 15, "trained", 1.0, 0.5, None),
    ]


def test_a_closed_form_head_is_solved(tiny: Network) -> None:
    rows = table(Network(tiny.backbone, IdentityMapping(4), RidgeHead(4, 3)))
    assert [row[3:6] for row in rows if row[3] in ("mapping", "head")] == [("head", 0, "solved")] * 2


def test_planning_touches_nothing(tiny: Network) -> None:
    tiny.eval()
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    table(tiny)
    assert not any(module.training for module in tiny.modules())
    assert all(parameter.requires_grad for parameter in tiny.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
