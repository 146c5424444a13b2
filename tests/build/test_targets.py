from typing import Any

import pytest

from graft.build.targets import arguments_of, check_target, locate
from graft.errors import UserError

LINEAR = "graft.models.heads.linear.LinearHead"
MLP = "graft.models.heads.mlp.MlpHead"
SUPPLIED = ("num_features", "num_classes")


def errors(node: dict[str, Any], *supplied: str) -> list[str]:
    return list(check_target("head", node, supplied or SUPPLIED))


def test_a_sound_node() -> None:
    assert errors({"_target_": MLP, "num_hidden": 8}) == []


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "grafted.x", "", None, 3, "graft"])
def test_only_allowed_packages(target: Any) -> None:
    with pytest.raises(UserError, match="expected a name in graft, torch"):
        locate(target)


def test_a_target_that_is_not_there() -> None:
    with pytest.raises(UserError, match="did you mean 'LinearHead'"):
        locate("graft.models.heads.linear.LinerHead")
    with pytest.raises(UserError, match="cannot be imported"):
        locate("graft.models.heads.lineal.LinearHead")
    with pytest.raises(UserError, match="has no SCALARS"):
        locate("graft.build.values.SCALARS")


def test_unknown_missing_and_mistyped_arguments_are_all_named() -> None:
    node = {"_target_": MLP, "num_hiden": 8, "dropout": "much", "num_classes": 3}
    assert errors(node) == [
        "head.num_hiden: no such key; did you mean 'head.num_hidden'?",
        "head.num_classes: cannot be set; graft passes it itself",
        "head.dropout='much'; expected a number",
    ]


def test_a_required_argument_is_missing() -> None:
    assert errors({"_target_": LINEAR}, "num_features") == [
        "head.num_classes: is missing; expected a whole number",
    ]


def test_open_values_are_named() -> None:
    assert errors({"_target_": MLP, "num_hidden": "???"}) == [
        "head.num_hidden: must be given; write head.num_hidden=..."
    ]


def test_nodes_inside_are_checked_too() -> None:
    node = {
        "_target_": "pytorch_lightning.Trainer",
        "profiler": {"_target_": "pytorch_lightning.profilers.SimpleProfiler", "file": "x"},
    }
    [error] = check_target("trainer", node)
    assert error == "trainer.profiler.file: no such key; did you mean 'trainer.profiler.filename'?"


def test_arguments_come_from_the_constructor_even_where_it_is_inherited() -> None:
    assert {"num_features", "num_classes"} <= arguments_of("graft.models.heads.prototype.PrototypeHead").keys()


def test_any_keyword_means_no_key_is_unknown_but_a_near_miss() -> None:
    node = {"_target_": "pytorch_lightning.callbacks.EMAWeightAveraging", "decey": 0.9}
    assert list(check_target("callbacks.ema", node)) == [
        "callbacks.ema.decey: no such key; did you mean 'callbacks.ema.decay'?"
    ]
