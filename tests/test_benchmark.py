"""The benchmark's table, on made-up figures; nothing here measures time."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of scripts/benchmarks, whatever else has its plain name; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = {path.stem for path in SCRIPTS.glob("*.py")}
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)

    def load(name: str) -> ModuleType:
        return import_module(name)

    yield load
    for name in names:
        sys.modules.pop(name, None)


def row(scripts: Any, **changes: Any) -> Any:
    harness = scripts("harness")
    figures = iter([{"bare": 1.0, "graft": 2.0}, {"bare": 10.0, "graft": 21.0}, {"bare": 2.0, "graft": 4.4}])
    settings = {
        "name": "toy",
        "what": "a step",
        "unit": "s",
        "prepare": lambda quick, folder: lambda: next(figures),
        "goals": (harness.share("graft", "bare", at_most=2.15), harness.speedup("graft", "bare", at_least=3.0)),
        "note": "made up",
    }
    return harness.Row(**settings | changes)


def test_ratios_are_taken_within_each_repetition(scripts: Any, tmp_path: Path) -> None:
    measured = scripts("harness").measure(row(scripts), True, 3, tmp_path)
    assert measured.figures == {"bare": [1.0, 10.0, 2.0], "graft": [2.0, 21.0, 4.4]}
    [(share, shares), (speedup, _)] = measured.goals
    assert shares == pytest.approx([2.0, 2.1, 2.2])
    assert share.holds(shares)
    assert not speedup.holds([0.5, 2.9, 3.1])


def test_the_table_in_markdown(scripts: Any, tmp_path: Path) -> None:
    measured = scripts("harness").measure(row(scripts), True, 3, tmp_path)
    lines = scripts("table").markdown([measured], "a machine").splitlines()
    assert lines[2] == (
        "| a step | bare 2 s (1 to 10) | graft 4.4 s (2 to 21) = 2.1x | "
        "graft: at most 2.15x bare: 2.1x (2 to 2.2)<br>graft: at least 3x faster than bare: 0.476x (0.455 to 0.5) | "
        "yes<br>no |"
    )
    assert lines[4:] == [
        "- a machine",
        "- toy: goal missed (graft: at least 3x faster than bare; measured 0.476x (0.455 to 0.5))",
        "- toy: made up",
    ]


def test_the_table_on_a_terminal(scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = scripts("harness").measure(row(scripts), True, 3, tmp_path)
    scripts("table").print_table([measured], "a machine", Console(width=160))
    printed = capsys.readouterr().out
    for words in ("a step", "bare 2 s (1 to 10)", "graft 4.4 s", "yes", "no", "- a machine", "- toy: made up"):
        assert words in printed


def test_a_row_that_cannot_be_measured_says_why(scripts: Any, tmp_path: Path) -> None:
    def prepare(quick: bool, folder: Path) -> Any:
        raise scripts("harness").NotMeasurable("no such file")

    measured = scripts("harness").measure(row(scripts, prepare=prepare), True, 3, tmp_path)
    table = scripts("table").markdown([measured], "a machine")
    assert "not measured" in table
    assert "- toy: not measured: no such file" in table


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([1.5e-5], "s", "15 µs (15 to 15)"),
        ([0.25, 0.2, 5.0], "s", "250 ms (200 to 5000)"),
        ([2e4], "images/s", "20 k images/s (20 to 20)"),
        ([2.0], "x", "2x (2 to 2)"),
    ],
)
def test_figures_are_easy_to_read(scripts: Any, values: list[float], unit: str, expected: str) -> None:
    assert scripts("table").spread(values, unit) == expected


def test_list_names_every_row(scripts: Any, capsys: pytest.CaptureFixture[str]) -> None:
    main = scripts("main")
    assert main.main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [row.name for row in main.ROWS]
    assert len(set(names)) == len(names) > 10


def test_an_unknown_row_is_refused(scripts: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scripts("main").main(["--only", "toi"])
    assert "no row 'toi'; expected some of toy, cnn" in capsys.readouterr().err


def test_every_method_of_adaptation_takes_its_steps(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adaptation = scripts("adaptation")
    for name, value in {"BATCH_SIZE": 8, "NUM_BANK": 64, "NUM_STEPS": 1}.items():
        monkeypatch.setattr(adaptation, name, value)
    figures = adaptation.prepare(True, tmp_path)()
    assert figures.keys() == {adaptation.SOURCE_ONLY, *(f"graft, {name}" for name in adaptation.methods())}
