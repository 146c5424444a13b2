from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import UserError
from graft.models.backbones.cnn import Cnn
from graft.models.heads.linear import LinearHead
from graft.models.heads.ridge import RidgeHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network
from graft.strategies.durations import Epochs, Plateau
from graft.strategies.phases import Phase, ResolvedPhase, Strategy, replan

ALL = {".*": {}}
HEAD = {r"head\..*": {}, ".*": None}


def spans(phases: tuple[ResolvedPhase, ...]) -> list[tuple[str, int, int]]:
    return [(phase.name, phase.first_epoch, phase.max_epochs) for phase in phases]


def test_phases_follow_one_another(tiny: Network) -> None:
    strategy = Strategy(
        "two",
        [{"name": "probe", "rules": HEAD, "until": {"epochs": 2}}, {"name": "all", "rules": ALL, "restart": True}],
    )
    phases = strategy.resolve(tiny, max_epochs=5)
    assert spans(phases) == [("probe", 0, 2), ("all", 2, 3)]
    assert [phase.restart for phase in phases] == [False, True]
    assert [phase.trained_groups for phase in phases] == [
        ("head",),
        ("backbone.stem", "backbone.stage1", "backbone.stage2", "head"),
    ]


def test_repetition_thaws_from_last_to_first(tiny: Network) -> None:
    rules = {r"head\..*": {}, r"backbone\.<i:>\..*": {}, r"backbone\..*": None}
    template = {"name": "thaw {group}", "repeat": "last_to_first", "until": {"epochs": 1}, "rules": rules}
    phases = Strategy("gradual", [template]).resolve(tiny, max_epochs=6)
    assert spans(phases) == [("thaw stage2", 0, 1), ("thaw stage1", 1, 1), ("thaw stem", 2, 4)]
    assert [phase.trained_groups[0] for phase in phases] == ["backbone.stage2", "backbone.stage1", "backbone.stem"]


@pytest.mark.parametrize(
    ("num_groups", "max_repeats", "expected"),
    [
        (4, None, [3, 2, 1, 0]),
        (4, 4, [3, 2, 1, 0]),
        (20, 4, [15, 10, 5, 0]),
        (3, 4, [2, 1, 0]),
        (5, 2, [2, 0]),
        (7, 1, [0]),
    ],
)
def test_repetitions_take_several_groups_at_a_time(
    num_groups: int, max_repeats: int | None, expected: list[int]
) -> None:
    assert Phase("thaw", (), repeat="last_to_first", max_repeats=max_repeats).positions(num_groups) == expected


@given(st.integers(1, 60), st.integers(1, 60))
def test_repetitions_cover_the_backbone_in_even_runs(num_groups: int, max_repeats: int) -> None:
    positions = Phase("thaw", (), repeat="last_to_first", max_repeats=max_repeats).positions(num_groups)
    sizes = [stop - start for start, stop in zip(positions, [num_groups, *positions], strict=False)]
    assert positions[-1] == 0
    assert len(positions) == min(num_groups, max_repeats)
    assert sum(sizes) == num_groups
    assert max(sizes) - min(sizes) <= 1


def test_a_closed_form_head_needs_no_parameter(tiny: Network) -> None:
    network = Network(tiny.backbone, IdentityMapping(4), RidgeHead(4, 3))
    [phase] = Strategy("probe", [{"name": "probe", "rules": HEAD}]).resolve(network, max_epochs=1)
    assert phase.trained_names == frozenset()
    assert phase.trained_groups == ()


def test_resolving_touches_nothing(tiny: Network) -> None:
    tiny.backbone.requires_grad_(False)
    before = [(module.training, [p.requires_grad for p in module.parameters()]) for module in tiny.modules()]
    Strategy("all", [{"name": "all", "rules": ALL}]).resolve(tiny, max_epochs=1)
    assert [(m.training, [p.requires_grad for p in m.parameters()]) for m in tiny.modules()] == before


PLATEAUS = Strategy(
    "plateaus",
    [
        {"name": "a", "rules": HEAD, "until": {"plateau": None}},
        {"name": "b", "rules": HEAD, "until": {"epochs": 2}},
        {"name": "c", "rules": HEAD, "until": {"plateau": {"monitor": "val/accuracy", "mode": "max"}}},
        {"name": "d", "rules": ALL},
    ],
)


def test_an_early_plateau_leaves_its_epochs_to_the_open_phases(tiny: Network) -> None:
    phases = PLATEAUS.resolve(tiny, max_epochs=14)
    assert spans(phases) == [("a", 0, 4), ("b", 4, 2), ("c", 6, 4), ("d", 10, 4)]
    assert phases[2].plateau == Plateau("val/accuracy", mode="max")
    phases = replan(phases, 1, first_epoch=2)
    assert spans(phases) == [("a", 0, 4), ("b", 2, 2), ("c", 4, 5), ("d", 9, 5)]
    phases = replan(phases, 3, first_epoch=6)
    assert spans(phases) == [("a", 0, 4), ("b", 2, 2), ("c", 4, 5), ("d", 6, 8)]


@pytest.mark.parametrize("index", range(4))
def test_replanning_where_nothing_came_early_changes_nothing(tiny: Network, index: int) -> None:
    for max_epochs in range(5, 40):
        phases = PLATEAUS.resolve(tiny, max_epochs)
        assert replan(phases, index, phases[index].first_epoch) == phases


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([], "strategy 'x': phases is empty"),
        ([{"rules": ALL}], "phase 0: name is missing"),
        ([{"name": "a"}], "phase 'a': rules is missing"),
        (["a"], "phase 0: 'a'; expected a mapping"),
        ([{"name": "a", "rules": ALL, "util": None}], "phase 'a': unknown key 'util'; did you mean 'until'"),
        ([{"name": "a", "rules": {".*": {"lr": 1}}}], r"phase 'a': rule '\.\*': unknown key 'lr'"),
        ([{"name": "a", "rules": ALL, "until": {"epochs": 1}}], "last phase takes the rest; leave its until out"),
        ([{"name": "a", "rules": ALL}, {"name": "b", "rules": ALL}], "phase 'a': until is missing"),
        (
            [{"name": "a", "rules": ALL, "norm_statistics": "evil"}],
            "norm_statistics='evil'; expected follow or eval or train",
        ),
        ([{"name": "a", "rules": ALL, "restart": "yes"}], "restart='yes'; expected true or false"),
        ([{"name": "a", "rules": ALL, "augment": 1}], "augment=1; expected true or false"),
        ([{"name": "a", "rules": ALL, "recalibrate": 1}], "recalibrate=1; expected true or false"),
        ([{"name": "a", "rules": ALL, "start_from": "first"}], "start_from='first'; expected last or best"),
        ([{"name": "a", "rules": ALL, "start_from": "best"}], "start_from=best; there is no phase before the first"),
        ([{"name": "a", "rules": {r"backbone\.<groups>\..*": {}, ".*": None}}], "groups is empty; expected"),
        ([{"name": "a", "rules": ALL, "repeat": 3}], "repeat=3; expected null or last_to_first"),
        ([{"name": "a", "rules": ALL, "repeat": "last_to_first"}], "until must say how long each repetition lasts"),
        ([{"name": "a", "rules": ALL, "max_repeats": 2}], "max_repeats=2; it needs repeat: last_to_first"),
        ([{"name": "a", "rules": ALL, "repeat": "last_to_first", "max_repeats": 0}], "max_repeats=0; expected"),
    ],
)
def test_strategies_that_cannot_be_meant(phases: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Strategy("x", phases)


def test_initialize_is_one_of_two() -> None:
    with pytest.raises(UserError, match="initialize='sauce'; expected source or scratch"):
        Strategy("x", [{"name": "a", "rules": ALL}], initialize="sauce")


SURGICAL = [{"name": "a", "rules": {r"head\..*": {}, r"backbone\.<groups>\..*": {}, ".*": None}}]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([0], ["stem"]),
        (["stage1"], ["stage1"]),
        ([-1, "stem"], ["stem", "stage2"]),
        (["stem", "stage1", "stage2"], ["stem", "stage1", "stage2"]),
    ],
)
def test_groups_are_named_or_counted(tiny: Network, groups: list[Any], expected: list[str]) -> None:
    [phase] = Strategy("x", SURGICAL, groups=groups).resolve(tiny, 1)
    assert phase.trained_groups == (*(f"backbone.{group}" for group in expected), "head")


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["stag1"], "groups: the backbone has no layer group 'stag1'; did you mean 'stage1'"),
        ([3], r"groups: 3 is outside the backbone's 3 layer groups \(stem, stage1, stage2\)"),
        ("stem", "groups='stem'; expected layer groups by name or position"),
        ([True], r"groups=\[True\]; expected layer groups"),
    ],
)
def test_groups_that_are_not_there(tiny: Network, groups: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"strategy 'x': {message}"):
        Strategy("x", SURGICAL, groups=groups).resolve(tiny, 1)


def test_groups_that_no_rule_speaks_of() -> None:
    with pytest.raises(UserError, match="no rule speaks of <groups>"):
        Strategy("x", [{"name": "a", "rules": ALL}], groups=[0])


@pytest.mark.parametrize("setting", [{"recalibrate": True}, {"norm_statistics": "train"}])
def test_statistics_there_are_none_of(setting: dict[str, Any]) -> None:
    body = Cnn()
    network = Network(body, IdentityMapping(body.num_features), LinearHead(body.num_features, 3))
    with pytest.raises(UserError, match="no normalisation layers with running statistics"):
        Strategy("x", [{"name": "a", "rules": ALL} | setting]).resolve(network, 1)


@pytest.mark.parametrize(
    ("phases", "max_epochs", "message"),
    [
        (
            [{"name": "a", "rules": {r"head\..*": {}}}],
            3,
            r"phase 'a': no rule for backbone\.stem\.conv\.weight \(and 11 more\)",
        ),
        ([{"name": "a", "rules": {r"backbone\.stage9\..*": {}, ".*": None}}], 3, r"did you mean 'backbone\.stage\d'"),
        (
            [{"name": "a", "rules": ALL, "until": {"epochs": 3}}, {"name": "b", "rules": ALL}],
            3,
            "need at least 4 epochs",
        ),
        (
            [{"name": "a", "rules": ALL, "until": {"fraction": 0.6}}] * 2 + [{"name": "b", "rules": ALL}],
            9,
            r"add up to 1\.2",
        ),
    ],
)
def test_strategies_that_do_not_fit(tiny: Network, phases: list[Any], max_epochs: int, message: str) -> None:
    with pytest.raises(UserError, match=f"strategy 'x': .*{message}"):
        Strategy("x", phases).resolve(tiny, max_epochs)


def test_a_rule_idle_in_some_repetitions_only_is_fine_and_in_all_is_not(tiny: Network) -> None:
    rules = {r"backbone\.<i+1:>\..*": {}, r"backbone\.<:i>\..*": None, ".*": {}}
    template = {"name": "thaw", "repeat": "last_to_first", "until": {"epochs": 1}}
    assert len(Strategy("x", [template | {"rules": rules}]).resolve(tiny, 3)) == 3
    with pytest.raises(UserError, match="decides about no parameter"):
        Strategy("x", [template | {"rules": {r"backbone\.nowhere\..*": None} | rules}]).resolve(tiny, 3)


def test_phases_may_be_given_ready_made() -> None:
    phase = Phase("a", (), until=Epochs(1))
    assert Strategy("x", [phase, {"name": "b", "rules": ALL}]).parsed[0] is phase
