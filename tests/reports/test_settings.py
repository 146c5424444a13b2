"""What varied between runs, and by which names it goes."""

from typing import Any

import pytest
from conf_plugins import load, names
from records_by_hand import config

from graft.reports.settings import ABSENT, seeds, setting, short_names, value_of, varied_keys


def records(*configs: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"config": each, "seed": each["seed"]} for each in configs]


def test_a_choice_goes_by_the_name_of_its_group() -> None:
    assert varied_keys(records(config("scratch"), config("lp_ft"))) == ["strategy"]


@pytest.mark.parametrize("group", ["head", "mapping", "adapter", "adaptation", "strategy"])
def test_every_option_of_a_part_of_the_network_goes_by_its_own_name(group: str) -> None:
    for option in names(group):
        assert value_of({"config": {group: load(group, option)}}, group) == option


def test_a_seed_is_not_a_setting() -> None:
    assert varied_keys(records(config(seed=0), config(seed=1))) == []


def test_the_seed_of_a_split_is_not_a_setting() -> None:
    first, second = (records(config(target_split_seed=number))[0] for number in (0, 1))
    assert varied_keys([first, second]) == []
    assert seeds(first) != seeds(second)


def test_where_a_run_writes_is_not_a_setting() -> None:
    assert varied_keys(records(config(), config(paths_outputs="elsewhere"))) == []


def test_a_key_that_varies_within_one_choice_is_named_beside_it() -> None:
    sweep = [
        config(optimizer__target_=f"torch.optim.{name}", optimizer_lr=lr)
        for name in ("SGD", "AdamW")
        for lr in (0.1, 0.2)
    ]
    assert varied_keys(records(*sweep)) == ["optimizer", "optimizer.lr"]


def test_a_key_that_comes_with_the_choice_is_not_named() -> None:
    sweep = [config(optimizer__target_="torch.optim.SGD", optimizer_lr=0.1), config(optimizer_lr=0.001)]
    assert varied_keys(records(*sweep)) == ["optimizer"]


def test_keys_with_the_same_values_are_named_once() -> None:
    sweep = records(*(config(optimizer_precision=value, pretrain_precision=value) for value in ("32", "16-mixed")))
    assert varied_keys(sweep) == ["optimizer.precision"]


def test_one_and_one_point_zero_are_different_limits() -> None:
    whole, single = (setting({"config": {"trainer": {"limit_train_batches": value}}}) for value in (1.0, 1))
    assert whole != single


def test_the_order_of_rules_counts() -> None:
    first, second = {"a": None, "b": {}}, {"b": {}, "a": None}
    assert first == second
    configs = (
        config(strategy="x") | {"strategy": {"name": "x", "phases": [{"rules": rules}]}} for rules in (first, second)
    )
    assert varied_keys(records(*configs)) == ["strategy.phases"]


def test_values_read_as_one_would_type_them() -> None:
    [record] = records(config(target_flip=True, target_fraction=None))
    assert value_of(record, "strategy") == "fine_tune"
    assert value_of(record, "optimizer") == "AdamW"
    assert value_of(record, "target.flip") == "true"
    assert value_of(record, "target.fraction") == "null"
    assert value_of(record, "target.no_such") == ABSENT


def test_names_are_shortened_only_where_that_is_clear() -> None:
    assert short_names(["a.lr", "b.lr", "a.momentum"]) == {"a.lr": "a.lr", "b.lr": "b.lr", "a.momentum": "momentum"}
