"""Rows from records written by hand, with figures computed by hand."""

import pytest
from records_by_hand import done, failed

from graft.reports.tables import group_rows


def test_one_row_for_each_setting_over_its_seeds() -> None:
    accuracies = {"scratch": [0.80, 0.82, 0.87], "fine_tune": [0.90, 0.94, 0.95]}
    records = [
        done(accuracy, scratch, strategy=strategy, seed=seed)
        for strategy, values in accuracies.items()
        for seed, (accuracy, scratch) in enumerate(zip(values, accuracies["scratch"], strict=True))
    ]
    scratch, fine_tune = group_rows(records)
    assert scratch["setting"] == {"strategy": "scratch"}
    assert fine_tune["setting"] == {"strategy": "fine_tune"}
    assert (fine_tune["n"], fine_tune["seeds"]) == (3, [0, 1, 2])
    # By hand: mean .93, deviations -.03 .01 .02, variance .0014 / 2.
    assert fine_tune["accuracy"]["mean"] == pytest.approx(0.93)
    assert fine_tune["accuracy"]["std"] == pytest.approx(0.0007**0.5)
    # t(.975, 2) = 4.302652730, from a printed table.
    assert fine_tune["accuracy"]["interval"] == pytest.approx(4.302652730 * (0.0007 / 3) ** 0.5)
    assert fine_tune["baseline"]["mean"] == pytest.approx(0.83)
    # Gains .10 .12 .08.
    assert fine_tune["gain"]["mean"] == pytest.approx(0.10)
    assert fine_tune["gain"]["std"] == pytest.approx(0.02)
    assert fine_tune["seconds"]["mean"] == pytest.approx(2.5)
    assert fine_tune["trainable_parameters"] == 61326
    assert scratch["gain"] == {"mean": 0.0, "std": 0.0, "interval": 0.0}


def test_different_settings_are_never_averaged_whatever_they_are_called() -> None:
    rows = group_rows([done(0.9, target_labels_per_class=n, target_fraction=f) for n in (1, 5) for f in (0.1, 0.2)])
    assert [row["n"] for row in rows] == [1, 1, 1, 1]
    assert len({tuple(row["setting"].items()) for row in rows}) == 4


@pytest.mark.parametrize("name", ["target_data", "source_data", "preprocessing", "code", "packages", "device"])
def test_runs_with_different_fingerprints_are_never_averaged(name: str) -> None:
    records = [done(0.8, seed=0), done(0.9, seed=1), done(0.7, seed=2)]
    records[2]["fingerprints"][name] = "f" * 64
    pair, single = group_rows(records)
    assert (pair["n"], single["n"]) == (2, 1)
    assert pair["accuracy"]["mean"] == pytest.approx(0.85)
    assert list(pair["differs"]) == [name]
    assert single["differs"] == {name: "f" * 64}


def test_splits_of_other_seeds_are_averaged() -> None:
    records = [done(value, seed=seed, target_split_seed=seed) for seed, value in enumerate((0.8, 0.9))]
    for seed, record in enumerate(records):
        record["fingerprints"] |= {"target_data": str(seed) * 64, "target_data_of_any_split": "5" * 64}
    [row] = group_rows(records)
    assert row["n"] == 2
    records[1]["fingerprints"]["target_data_of_any_split"] = "6" * 64
    assert [row["n"] for row in group_rows(records)] == [1, 1]


def test_weights_of_a_source_stage_differ_from_seed_to_seed() -> None:
    records = [done(0.8, seed=0), done(0.9, seed=1)]
    assert records[0]["fingerprints"]["weights"] != records[1]["fingerprints"]["weights"]
    [row] = group_rows(records)
    assert row["n"] == 2
    assert row["differs"] == {}


def test_weights_that_were_given_must_agree() -> None:
    records = [done(0.8, seed=0) | {"weights": "mobilenet_v2.safetensors"}, done(0.9, seed=1)]
    records[1] |= {"weights": "mobilenet_v2.safetensors"}
    rows = group_rows(records)
    assert [row["n"] for row in rows] == [1, 1]
    assert list(rows[0]["differs"]) == ["weights"]


def test_a_repeated_run_is_not_another_sample() -> None:
    old, new, other = done(0.7, seed=0), done(0.8, seed=0), done(0.9, seed=1)
    old["finished"], new["finished"] = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"
    for order in ([old, new, other], [new, old, other]):
        [row] = group_rows(order)
        assert row["n"] == 2
        assert row["accuracy"]["mean"] == pytest.approx(0.85)


def test_pretraining_seeds_are_samples_of_their_own() -> None:
    [row] = group_rows([done(0.8, pretrain_seed=0), done(0.9, pretrain_seed=1)])
    assert row["n"] == 2


def test_failed_runs_have_no_part_in_the_figures() -> None:
    [row] = group_rows([done(0.8), failed("broken", seed=1)])
    assert row["n"] == 1


def test_without_baselines_there_is_no_gain() -> None:
    [row] = group_rows([done(0.8, scratch=None)])
    assert row["gain"] is None
    assert row["baseline"] is None
    assert row["accuracy"]["mean"] == 0.8


def test_no_finished_run_no_row() -> None:
    assert group_rows([failed("broken")]) == []
    assert group_rows([]) == []
