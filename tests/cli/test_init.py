"""`graft init`: a project whose configuration `graft` finds in its folder, from an empty folder on."""

from pathlib import Path

import pytest
import yaml

from graft.cli.catalogue import description
from graft.cli.main import main

FEW = ("source.num_samples=200", "source.num_test_samples=50", "pretrain.max_epochs=1", "trainer.max_epochs=1")


@pytest.fixture
def project(empty_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new project, in which the test works."""
    assert main(["init", "my_project"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "graft: try: cd my_project; graft experiment=mine"
    monkeypatch.chdir(empty_folder / "my_project")
    return empty_folder / "my_project"


def test_its_experiment_runs_there_and_nowhere_else(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file())
    assert files == [".gitignore", "README.md", "conf/experiment/mine.yaml", "graft.yaml"]
    assert main(["experiment=mine", *FEW, "logger=none", "baselines=[]", "analysis.cka_images=0"]) == 0
    assert (project / "outputs" / "mine").is_dir()
    assert main(["ls", "experiment"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("mine"))
    assert listed == {"mine": description(project / "conf" / "experiment" / "mine.yaml")}
    monkeypatch.chdir(project.parent)
    assert main(["experiment=mine"]) == 1
    assert "no such experiment" in capsys.readouterr().err


def test_completion_show_and_new_know_it(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["new", "strategy", "careful", "--from", "lp_ft"]) == 0
    assert "then: graft strategy=careful\n" in capsys.readouterr().out
    assert (project / "conf" / "strategy" / "careful.yaml").is_file()
    assert main(["show", "strategy/careful"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "careful"
    monkeypatch.setenv("COMP_LINE", "graft strategy=care")
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == ["strategy=careful"]


def test_a_folder_given_by_hand_comes_first(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "other").mkdir()
    assert main(["show", "experiment/mine", "--config-dir", "other"]) == 1
    assert "no such experiment" in capsys.readouterr().err


def test_nothing_is_overwritten(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (empty_folder / "README.md").write_text("mine")
    assert main(["init", "."]) == 1
    assert capsys.readouterr().err == "graft: .: holds README.md already, and nothing is overwritten\n"
    assert [path.name for path in empty_folder.iterdir()] == ["README.md"]
    assert main(["init", "README.md"]) == 1
    assert "README.md: a file; expected the name of a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("config_dri: conf", "graft.yaml: config_dri: no such key; did you mean 'config_dir'?"),
        ("config_dir: cnf", "graft.yaml: config_dir: cnf: no such folder"),
        ("config_dir: 3", "graft.yaml: config_dir: 3; expected the folder with your own configuration, such as conf"),
        ("- conf", "graft.yaml: expected config_dir: FOLDER"),
        ("a: b: c", "graft.yaml: cannot be read (mapping values are not allowed here)"),
    ],
)
def test_what_a_project_says_wrong(
    text: str, error: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty_folder / "graft.yaml").write_text(text)
    assert main(["ls", "strategy"]) == 1
    assert capsys.readouterr().err == f"graft: {error}\n"
