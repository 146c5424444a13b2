"""Whole runs in this process: several sources and few target labels; a partial and an open target."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import write_arrays
from hydra.core.config_loader import ConfigLoader

from graft.build.assembly import build_experiment
from graft.build.validation import validate
from graft.cli.compose import compose, hydra_application
from graft.errors import UserError
from graft.pipeline import planned_network, run, shown_metrics
from graft.reports.export import results_csv

TINY = (
    *("trainer=cpu", "logger=none", "trainer.max_epochs=1", "pretrain.max_epochs=2", "analysis.cka_images=0"),
    *("target=arrays", "target.val_fraction=0.2", "target.batch_size=16", "optimizer.lr=0.003"),
)
Config = Callable[..., dict[str, Any]]


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """Compose and validate a configuration over tiny arrays of classes that are named by letters."""

    def arrays(names: str, seed: int) -> str:
        path = write_arrays(tmp_path / f"{names}{seed}.npz", num_classes=len(names), seed=seed)
        np.savez(path, **dict(np.load(path)), class_names=list(names))
        return str(path)

    with hydra_application() as hydra:

        def make(sources: list[str], target: str, *overrides: str) -> dict[str, Any]:
            words = [*TINY, f"target.path={arrays(target, 0)}", f"paths.outputs={tmp_path / 'outputs'}"]
            words.append(f"source={'+'.join(['arrays'] * len(sources))}")
            keys = ["source"] if len(sources) == 1 else ["source.parts.arrays", "source.parts.arrays_2"]
            words += [
                f"{key}.path={arrays(names, 1 + i)}" for i, (key, names) in enumerate(zip(keys, sources, strict=True))
            ]
            composed = compose(hydra.config_loader, [*words, *overrides])
            assert validate(composed) == []
            return composed

        yield make


def record_of(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    folder.mkdir()
    run(build_experiment(config), folder)
    record: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return record


def test_two_sources_and_few_labels_of_the_target(config: Config, tmp_path: Path) -> None:
    made = config(["abc", "abc"], "bca", "adaptation=mme", "target.labels_per_class=2", "source.batch_size=24")
    record = record_of(made, tmp_path / "run")
    assert record["source"] == "arrays+arrays_2"
    assert record["training_labels"] == 6
    assert record["label_space"] == {"kind": "closed", "source_only": [], "target_only": [], "warnings": []}
    assert record["classes"]["names"] == ["a", "b", "c"]
    swapped = config(["abc", "abc"], "bca", "adaptation=mme", "target.labels_per_class=2", "source.shares=proportional")
    assert (
        record["fingerprints"]["source_data"] == record_of(swapped, tmp_path / "other")["fingerprints"]["source_data"]
    )
    assert (
        record["fingerprints"]["weights"]
        != json.loads((tmp_path / "other/record.json").read_text())["fingerprints"]["weights"]
    )


def test_a_partial_target_is_evaluated_in_the_sources_classes(config: Config, tmp_path: Path) -> None:
    made = config(["abcd"], "ca", "adaptation=[mcc,bnm]", "label_space=partial")
    assert planned_network(build_experiment(made)).head.num_classes == 4
    record = record_of(made, tmp_path / "run")
    space = record["label_space"]
    assert (space["source_only"], space["target_only"]) == (["b", "d"], [])
    [warning] = space["warnings"]
    assert warning.startswith("adaptation=bnm spreads predictions")
    accuracies = dict(zip(record["classes"]["names"], record["classes"]["accuracy"], strict=True))
    assert accuracies["b"] is accuracies["d"] is None
    assert None not in (accuracies["a"], accuracies["c"])
    assert "open_set" not in space


def test_an_open_target_has_an_h_score(config: Config, tmp_path: Path) -> None:
    record = record_of(config(["abc"], "xcab", "adaptation=dann", "label_space=open"), tmp_path / "run")
    space = record["label_space"]
    assert space["target_only"] == ["x"]
    assert space["unknown"] == {"confidence": "max_probability", "threshold": 0.5}
    assert space["warnings"][0].startswith("adaptation=dann makes the two domains alike")
    for scores in (space["open_set"]["transfer"], space["open_set"]["source_only"]):
        known, unknown = scores["known_accuracy"], scores["unknown_accuracy"]
        assert scores["h_score"] == pytest.approx(2 * known * unknown / (known + unknown) if known + unknown else 0.0)
    assert sum(map(sum, record["classes"]["confusion"])) == 30
    expected = {f"open_set/{name}": score for name, score in space["open_set"]["transfer"].items()}
    assert expected.items() <= shown_metrics(record).items()
    [row] = csv.DictReader(io.StringIO(results_csv([(tmp_path / "run", record)])))
    assert {name: float(row[name]) for name in expected} == expected


def test_classes_that_are_not_as_declared_are_refused(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="label_space=partial allows for that"):
        record_of(config(["abc"], "ab", "adaptation=coral"), tmp_path / "run")


def test_a_budget_that_leaves_nothing_to_adapt_to_is_refused(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leaves no training sample without a label"):
        record_of(config(["ab"], "ab", "adaptation=coral", "target.fraction=1.0"), tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["label_space=partial"], "label_space=partial: without adaptation="),
        (["label_space=opn"], "label_space='opn'; expected"),
        (["unknown.threshold=2"], "unknown.threshold=2: expected a number from 0 to 1"),
        (["target=glyphs+digits"], "target=glyphs+digits: several data sets are no target"),
        (["source=glyphs+digits", "source.parts.digits.batch_size=3"], "parts.digits.batch_size"),
        (
            ["source=glyphs+digits", "source.parts.digits.labels_per_class=x"],
            "source.parts.digits.labels_per_class='x'",
        ),
    ],
)
def test_settings_are_checked(words: list[str], reason: str, loader: ConfigLoader) -> None:
    assert any(reason in error for error in validate(compose(loader, words)))


def test_an_unknown_source_among_several_is_named(loader: ConfigLoader) -> None:
    with pytest.raises(UserError, match="source=glyphs\\+digts: no such source; did you mean 'digits'"):
        compose(loader, ["source=glyphs+digts"])
