from pathlib import Path
from typing import Any

import pytest
import yaml
from records_by_hand import done

from graft.cli.catalogue import description
from graft.cli.commands.plan import plan_table
from graft.cli.main import main
from graft.cli.sweep_file import SCHEMA, write_sweep
from graft.records.record import write_record


def row(**changes: Any) -> dict[str, Any]:
    values = {"phase": "probe", "first_epoch": 0, "epochs": 3, "plateau": False, "group": "head", "norm": None}
    values |= {"num_parameters": 1850, "state": "trained", "lr_scale": 0.5, "lr": 0.0005, "weight_decay": 0.01}
    return values | changes


def texts(rows: list[dict[str, Any]]) -> list[list[str]]:
    columns = [list(column.cells) for column in plan_table(rows).columns]
    return [list(map(str, cells)) for cells in zip(*columns, strict=True)]


def test_plan_of_a_rate_that_is_yet_to_be_found() -> None:
    rows = [row(group=f"backbone.{scale}", lr=None, lr_scale=scale) for scale in (1.0, 0.65)]
    assert [line[5] for line in texts(rows)] == ["auto", "0.65 x auto"]


def test_plan_names_a_phase_once() -> None:
    frozen = {"state": "frozen", "lr_scale": None, "lr": None, "weight_decay": None}
    rows = [row(group="backbone.stem", norm="eval", **frozen), row(), row(phase="all", first_epoch=3, plateau=True)]
    assert texts(rows) == [
        ["probe", "1-3", "stem", "1,850", "frozen", "", "", "eval"],
        ["", "", "head", "1,850", "trained", "0.0005", "0.01", ""],
        ["all", "4-6 at most", "head", "1,850", "trained", "0.0005", "0.01", ""],
    ]


def test_plan_joins_neighbours_that_are_alike() -> None:
    rows = [
        row(group=f"backbone.{name}", num_parameters=10, lr_scale=scale)
        for name, scale in zip("abc", (1.0, 1.0, 0.5), strict=True)
    ]
    assert [line[2:4] for line in texts(rows)] == [["a, b", "20"], ["c", "10"]]


def test_plan_of_a_single_epoch() -> None:
    assert texts([row(epochs=1)])[0][1] == "1"


def test_plan_of_the_default(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "strategy=last_stage", "source.num_samples=200", "source.num_test_samples=50"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("about ")
    assert lines[-1].startswith("memory: ")
    assert main([*words, "--no-trial"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:-2]
    assert [line.split()[-1] for line in lines if "frozen" in line] == ["frozen"]
    assert [line.split()[-3] for line in lines if "trained" in line] == ["trained"]
    assert not list(empty_folder.glob("outputs/*"))


def test_plan_says_that_groups_are_yet_to_be_chosen(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "strategy=surgical_auto", "--no-trial"]) == 0
    said = "strategy.groups=auto: chosen when the stage begins; stem stands for it here"
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert main(["plan", "strategy=surgical_auto", "--no-trial", "--write", "mine.yaml"]) == 1
    assert "groups=auto are chosen when a stage begins" in capsys.readouterr().err
    assert not list(empty_folder.iterdir())


def test_a_written_plan_can_be_used(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["strategy=ulmfit", "--no-trial"]
    assert main(["plan", *words, "--write", "own/strategy/mine.yaml"]) == 0
    *table, said = capsys.readouterr().out.splitlines()
    assert said == "graft: wrote own/strategy/mine.yaml; edit it, then: graft strategy=mine --config-dir own"
    assert main(["plan", "strategy=mine", "--config-dir", "own", "--no-trial"]) == 0
    assert capsys.readouterr().out.splitlines() == table
    assert description(empty_folder / "own" / "strategy" / "mine.yaml") == "As ulmfit on cnn in 20 epochs, written out."
    assert main(["plan", *words, "--write", "mine.yaml"]) == 0
    assert "put it into a folder DIR/strategy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "said"), [("there.yaml", "exists already"), ("a.yml", "ends in .yaml"), ("1.yaml", "not a name")]
)
def test_a_plan_is_written_where_nothing_is(
    path: str, said: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty_folder / "there.yaml").write_text("mine: true\n")
    assert main(["plan", "--no-trial", "--write", path]) == 1
    assert said in capsys.readouterr().err
    assert [(file.name, file.read_text()) for file in empty_folder.iterdir()] == [("there.yaml", "mine: true\n")]


def test_plan_tells_of_an_adapter(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "adapter=oft", "source.num_samples=200", "source.num_test_samples=50", "--no-trial"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "adapter oft: 2 layers, 6,540 parameters; with the head, 10.78 % of all are trained; "
        "2 left out (convolutions larger than 1x1)"
    )


def test_ls_describes_every_choice(capsys: pytest.CaptureFixture[str], conf: Path) -> None:
    assert main(["ls", "strategy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in (conf / "strategy").glob("*.yaml"))
    assert all(len(line.split()) > 2 for line in lines)


def test_ls_of_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "strategies"]) == 1
    assert capsys.readouterr().err == "graft: strategies: no such group; did you mean 'strategy'?\n"


def test_show_prints_the_file_and_the_whole(capsys: pytest.CaptureFixture[str], conf: Path) -> None:
    assert main(["show", "source/digits"]) == 0
    text = capsys.readouterr().out
    assert text.startswith((conf / "domain" / "digits.yaml").read_text().rstrip())
    whole = yaml.safe_load(text.partition("as a whole\n")[2])
    assert whole["reader"]["_target_"].endswith("Digits")
    assert whole["test_fraction"] == 0.5
    assert whole["num_workers"] is None


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("ls lp_ft", "no such group, but one of the choices of strategy"),
        ("ls strategy/lp_ft", "expected a group, such as strategy; graft show strategy/lp_ft prints"),
        ("show lp_tf", "expected GROUP/NAME; did you mean 'strategy/lp_ft'?"),
        ("show digit", "did you mean 'source/digits' or 'target/digits'?"),
        ("show stratgy/lp_ft", "did you mean 'strategy'?"),
        ("new strategy mine --form lp_ft", "the following arguments are required: --from"),
        ("ls --config-dri conf", "did you mean '--config-dir'?"),
        ("export outputs --format onx", "did you mean 'onnx'?"),
        ("interprt outputs/latest", "no such command; did you mean 'interpret'?"),
        ("logger=tensorbord", "did you mean 'tensorboard'?"),
        ("callbacks.early_stoping.patience=3", "no such key; callbacks=early_stopping brings callbacks.early_stopping"),
        ("logger=[tensorboard,cvs]", "did you mean 'csv'?"),
        ("logger=wandb logger.wandb.projct=x", "did you mean 'logger.wandb.project'?"),
        ("logger=wandb logger.wandb.mode=onlin", "expected 'offline' or 'online'"),
    ],
)
def test_misspelt_names_are_met_with_the_nearest(
    words: str, hint: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 1
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("choice", ["strategy", "strategy/lp_tf", "strtegy/lp_ft", "hydra/config"])
def test_show_of_something_else(choice: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", choice]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_new_makes_a_choice_that_can_be_used(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = str(empty_folder / "mine")
    assert main(["new", "strategy", "careful", "--from", "lp_ft", "--config-dir", own]) == 0
    path = empty_folder / "mine" / "strategy" / "careful.yaml"
    assert yaml.safe_load(path.read_text())["name"] == "careful"
    assert "lp_ft" in description(path)
    assert main(["new", "target", "birds", "--from", "image_folder", "--config-dir", own]) == 0
    assert (empty_folder / "mine" / "domain" / "birds.yaml").is_file()
    capsys.readouterr()
    words = ["--cfg", "job", "-p", "strategy.name", "strategy=careful", "target=birds", "--config-dir", own]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == "careful"


def test_new_never_overwrites(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["new", "strategy", "careful", "--from", "lp_ft", "--config-dir", str(empty_folder)]
    assert main(words) == 0
    path = empty_folder / "strategy" / "careful.yaml"
    path.write_text("mine: true\n")
    assert main(words) == 1
    assert path.read_text() == "mine: true\n"
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../up", ".hidden", "a b", ""])
def test_new_wants_a_name(name: str, empty_folder: Path) -> None:
    assert main(["new", "strategy", name, "--from", "lp_ft", "--config-dir", str(empty_folder)]) == 1
    assert not list(empty_folder.rglob("*.yaml"))


def test_report_prints_and_writes(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, seed in enumerate((0, 1)):
        write_record(empty_folder / "runs" / str(number), done(0.9 + 0.01 * number, seed=seed))
    assert main(["report", "runs", "--csv", "all.csv", "--markdown", "table.md"]) == 0
    assert "90.5 ± 0.7" in capsys.readouterr().out
    assert len((empty_folder / "all.csv").read_text().splitlines()) == 3
    assert "90.5 ± 0.7" in (empty_folder / "table.md").read_text()


def test_report_compares_with_a_named_setting_and_makes_a_page(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (name, seed) in enumerate((name, seed) for name in ("linear_probe", "fine_tune") for seed in range(3)):
        accuracy = (0.9 if name == "fine_tune" else 0.8) + 0.01 * seed * number
        write_record(empty_folder / "runs" / str(number), done(accuracy, strategy=name, seed=seed))
    words = ["report", "runs", "--html", "report.html", "--latex", "table.tex", "--against"]
    assert main([*words, "strategy=linear_probe"]) == 0
    assert "difference to strategy=linear_probe" in " ".join(capsys.readouterr().out.split())
    assert "difference to strategy=linear_probe" in (empty_folder / "report.html").read_text()
    assert r"linear\_probe & $3$" in (empty_folder / "table.tex").read_text()
    assert main([*words, "strategy=linear_prob"]) == 1
    assert "did you mean 'linear_probe'?" in capsys.readouterr().err


def test_report_names_the_jobs_of_a_sweep_that_have_no_record(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = empty_folder / "runs" / "grid"
    write_record(sweep / "0", done(0.9))
    jobs = [{"folder": str(number), "id": str(number), "launch": 0, "overrides": []} for number in range(3)]
    write_sweep(sweep, {"schema": SCHEMA, "name": "grid", "status": "running", "launches": [], "jobs": jobs})
    assert main(["report", "runs"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Missing: 2 of the 3 jobs of runs/grid have no record (1, 2); graft resume runs/grid runs" in printed


def test_report_of_nothing(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "runs"]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_description_is_the_first_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# @package _global_\n# One (Somebody et al., 2020),\n# and another. More.\n#\n# Else.\na: 1\n")
    assert description(path) == "One (Somebody et al., 2020), and another."
