import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from graft.errors import UserError
from graft.strategies.rules import NameTable, Rule, assign, check_no_idle_rule, expand, is_norm, parse_rules

NAMES = NameTable(
    parameters=(
        ("backbone.stem.conv.weight", "backbone.stem"),
        ("backbone.stem.bn.weight", "backbone.stem"),
        ("backbone.stage1.conv.weight", "backbone.stage1"),
        ("backbone.stage2.conv.weight", "backbone.stage2"),
        ("head.linear.weight", "head"),
    ),
    solved=(),
    backbone_groups=("stem", "stage1", "stage2"),
    norm=("backbone.stem.bn.weight",),
)


def trained(table: dict, position: int | None = None, names: NameTable = NAMES) -> list[str]:
    assignments, _ = assign(parse_rules(table), names, position)
    return [entry.name for entry in assignments if entry.lr_scale is not None]


def check(table: dict, names: NameTable = NAMES) -> None:
    rules = parse_rules(table)
    _, deciding = assign(rules, names)
    check_no_idle_rule(rules, deciding, names)


def test_first_match_wins() -> None:
    assignments, _ = assign(parse_rules({r"head\..*": {"lr_scale": 10}, ".*": {"lr_scale": 2}}), NAMES)
    assert [entry.lr_scale for entry in assignments] == [2, 2, 2, 2, 10]


def test_patterns_match_whole_names() -> None:
    with pytest.raises(UserError, match=r"no rule for backbone\.stem\.conv\.weight \(and 4 more\)"):
        assign(parse_rules({"head": {}, "backbone": None}), NAMES)


@pytest.mark.parametrize(
    ("selector", "position", "groups"),
    [
        ("<-1>", None, "stage2"),
        ("<0>", None, "stem"),
        ("<-3>", None, "stem"),
        ("<-2:>", None, "stage1 stage2"),
        ("<:1>", None, "stem"),
        ("<1:2>", None, "stage1"),
        ("<:>", None, "stem stage1 stage2"),
        ("<i>", 1, "stage1"),
        ("<i:>", 1, "stage1 stage2"),
        ("<:i>", 1, "stem"),
        ("<i+1:>", 1, "stage2"),
        ("<i-1>", 1, "stem"),
        ("<i+1:>", 2, ""),
    ],
)
def test_positions(selector: str, position: int | None, groups: str) -> None:
    regex = expand(rf"backbone\.{selector}\..*", NAMES, position)
    found = dict.fromkeys(group.removeprefix("backbone.") for name, group in NAMES.parameters if regex.fullmatch(name))
    assert list(found) == groups.split()


@given(st.integers(1, 30), st.none() | st.integers(-40, 40), st.none() | st.integers(-40, 40))
def test_slices_are_pythons(num_groups: int, start: int | None, stop: int | None) -> None:
    groups = tuple(f"block{i}" for i in range(num_groups))
    names = NameTable(tuple((f"backbone.{g}.weight", f"backbone.{g}") for g in groups), (), groups, ())
    ends = ["" if end is None else str(end) for end in (start, stop)]
    regex = expand(rf"backbone\.<{ends[0]}:{ends[1]}>\..*", names)
    assert [g for g in groups if regex.fullmatch(f"backbone.{g}.weight")] == list(groups[start:stop])


def test_norm_selects_what_normalisation_layers_own() -> None:
    assert trained({"<norm>": {}, ".*": None}) == ["backbone.stem.bn.weight"]
    assert trained({r"(?=backbone\.stem\.)<norm>": {}, ".*": None}) == ["backbone.stem.bn.weight"]


def test_lookbehind_and_named_groups_are_left_alone() -> None:
    pattern = r"(?P<part>backbone|head)\..*(?<=weight)(?<!bias)"
    assert trained({pattern: {}}) == [name for name, _ in NAMES.parameters]


def test_layer_decay_counts_layer_groups_from_the_head() -> None:
    assignments, _ = assign(parse_rules({".*": {"lr_scale": 2, "layer_decay": 0.5}}), NAMES)
    assert [entry.lr_scale for entry in assignments] == [0.25, 0.25, 0.5, 1.0, 2.0]


def test_layer_decay_stops_at_its_minimum() -> None:
    assignments, _ = assign(parse_rules({".*": {"lr_scale": 2, "layer_decay": 0.5, "min_scale": 0.3}}), NAMES)
    assert [entry.lr_scale for entry in assignments] == [0.6, 0.6, 0.6, 1.0, 2.0]


def test_first_scale_spreads_rates_in_even_ratios() -> None:
    """fastai's `even_mults(1e-3, 1, 4)` for three layer groups and the head."""
    assignments, _ = assign(parse_rules({".*": {"first_scale": 1e-3}}), NAMES)
    assert [entry.lr_scale for entry in assignments] == pytest.approx([1e-3, 1e-3, 1e-2, 1e-1, 1.0])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {r"backbone\.stag1\..*": {}, ".*": None},
            r"stag1.*decides about no parameter; did you mean 'backbone.stage1'\?",
        ),
        ({r"haed\..*": {}, ".*": None}, r"did you mean 'head'\?"),
        ({".*": {}, r"head\..*": None}, r"'head.*decides about no parameter: earlier rules"),
        (
            {r"backbone\.<3>\..*": {}, ".*": None},
            r"<3> is outside the backbone's 3 layer groups \(stem, stage1, stage2\)",
        ),
        ({r"backbone\.<-4>\..*": {}, ".*": None}, r"<-4> is outside the backbone's 3 layer groups"),
        ({"<nrom>": {}, ".*": None}, r"<nrom> selects nothing; expected <norm>, <groups> or a position"),
        ({r"backbone\.<i:>\..*": {}, ".*": None}, r"<i:> has a meaning only in a phase with repeat"),
    ],
)
def test_rules_that_cannot_be_meant(table: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(table)


def test_no_normalisation_layers() -> None:
    names = NameTable(NAMES.parameters, (), NAMES.backbone_groups, norm=())
    with pytest.raises(UserError, match="no normalisation layers"):
        check({"<norm>": {}, ".*": None}, names)


def test_a_rule_may_match_only_what_is_solved_in_closed_form() -> None:
    names = NameTable(NAMES.parameters[:4], ("head.weight", "head.bias"), NAMES.backbone_groups, NAMES.norm)
    check({r"head\..*": {}, ".*": None}, names)
    assert trained({r"head\..*": {}, ".*": None}, names=names) == []


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "expected at least one"),
        ([".*"], "expected at least one"),
        ({".*": 0.1}, r"0.1; expected null \(frozen\)"),
        ({".*": {"lr_scal": 1}}, "unknown key 'lr_scal'; did you mean 'lr_scale'"),
        ({".*": {"lr_scale": 0}}, "lr_scale=0; expected a number above 0"),
        ({".*": {"lr_scale": -1}}, "lr_scale=-1"),
        ({".*": {"lr_scale": "1e-3"}}, "lr_scale='1e-3'"),
        ({".*": {"lr_scale": True}}, "lr_scale=True"),
        ({".*": {"lr_scale": float("nan")}}, "lr_scale=nan"),
        ({".*": {"lr_scale": float("inf")}}, "lr_scale=inf"),
        ({".*": {"weight_decay": -0.1}}, "weight_decay=-0.1; expected a number from 0 on"),
        ({".*": {"weight_decay": "none"}}, "weight_decay='none'"),
        ({".*": {"layer_decay": 1.5}}, "layer_decay=1.5; expected a number above 0 and at most 1"),
        ({".*": {"min_scale": 0.1}}, "min_scale=0.1; expected a layer_decay below 1 beside it"),
        ({".*": {"min_scale": 2, "layer_decay": 0.5}}, "min_scale=2; expected a number from 0 to 1"),
        ({".*": {"first_scale": 0}}, "first_scale=0; expected a number above 0 and at most 1"),
        ({"(.*": {}}, "not a regular expression"),
    ],
)
def test_tables_that_cannot_be_read(table: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_rules(table)


def test_rules_keep_their_order() -> None:
    assert parse_rules({"b": None, "a": {"weight_decay": 0}}) == (Rule("b", frozen=True), Rule("a", weight_decay=0))


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm2d(2), nn.SyncBatchNorm(2), nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.InstanceNorm1d(2), nn.RMSNorm(2)],
)
def test_norm_layers_of_torch(layer: nn.Module) -> None:
    assert is_norm(layer)


def test_norm_layers_of_other_libraries_go_by_their_names() -> None:
    def named(name: str, *children: nn.Module) -> nn.Module:
        module = type(name, (nn.Module,), {})()
        for i, child in enumerate(children):
            module.add_module(str(i), child)
        return module

    assert is_norm(named("RmsNorm2d"))
    assert is_norm(named("EvoNorm"))
    assert is_norm(type("MyBatch", (nn.BatchNorm2d,), {})(2))
    assert not is_norm(named("ConvNorm", nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))
    assert not is_norm(nn.Linear(1, 1))
    assert not is_norm(named("Normaliser"))


@given(st.lists(st.sampled_from(["<norm>", r"head\..*", r"backbone\.<-1>\..*", r"backbone\.stem\..*"]), unique=True))
def test_every_parameter_is_decided_by_exactly_the_first_rule_that_matches(patterns: list[str]) -> None:
    table = {pattern: {"lr_scale": number} for number, pattern in enumerate(patterns, start=1)} | {".*": None}
    assignments, deciding = assign(parse_rules(table), NAMES)
    assert [entry.name for entry in assignments] == [name for name, _ in NAMES.parameters]
    for entry in assignments:
        numbers = [n for n, pattern in enumerate(patterns, start=1) if expand(pattern, NAMES).fullmatch(entry.name)]
        assert entry.lr_scale == (min(numbers) if numbers else None)
    used = {int(entry.lr_scale) for entry in assignments if entry.lr_scale is not None}
    assert {patterns[n - 1] for n in used} == deciding - {".*"}
