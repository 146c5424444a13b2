"""`graft rank` on tiny images, from the command line to its files."""

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from builders import write_arrays

import graft.scores
from graft.cli.main import main

TINY = ["trainer=cpu", "logger=none", "pretrain.max_epochs=1", "trainer.max_epochs=2", "baselines=[]"]
TARGET = ["target=arrays", "target.path=target.npz", "target.val_fraction=0.2"]
SOURCES = "source=arrays", "source.path=one.npz,other.npz"


@pytest.fixture
def images(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    write_arrays(empty_folder / "target.npz", seed=2)
    write_arrays(empty_folder / "one.npz", seed=1, num_classes=4)
    write_arrays(empty_folder / "other.npz", seed=3, num_classes=2)
    return empty_folder


def ranking(folder: Path) -> dict[str, Any]:
    newest = max(folder.glob("outputs/rank/*/ranking.json"), key=lambda path: path.stat().st_mtime)
    found: dict[str, Any] = json.loads(newest.read_text())
    return found


def cached(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("outputs/store/features/*/*")}


def test_candidates_are_ranked_and_written_down(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", *TINY, *TARGET, *SOURCES, "backbone=cnn,resnet20"]) == 0
    out = capsys.readouterr().out
    found = ranking(images)
    assert found["status"] == "done"
    assert len(found["candidates"]) == 4
    assert found["scores"] == ["h_score", "knn", "leep", "linear_probe", "logme", "nce", "transrate"]
    for row in found["candidates"]:
        assert all(isinstance(value, float) for value in row["scores"].values())
        assert all(seconds >= 0 for seconds in row["score_seconds"].values())
        assert (row["num_samples"], row["num_classes"]) == (48, 3)
    order = [line.split()[0] for line in out.splitlines() if line.startswith("path=")]
    assert sorted(order) == ["path=one.npz"] * 2 + ["path=other.npz"] * 2
    [table] = images.glob("outputs/rank/*/ranking.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [float(row["logme"]) for row in rows] == sorted((float(row["logme"]) for row in rows), reverse=True)
    assert not list(images.glob("outputs/latest"))


def test_a_linear_probe_goes_on_with_the_backbone_and_the_features(images: Path) -> None:
    words = [*TINY, *TARGET, "source=arrays", "source.path=one.npz"]
    assert main(["rank", *words]) == 0
    before = cached(images)
    assert len(before) == 1
    assert main([*words, "strategy=linear_probe"]) == 0
    assert before < cached(images)
    assert len(cached(images)) == 4  # those of the validation and test samples for training and for scores
    assert len(list(images.glob("outputs/store/backbone/*/*"))) == 1


def test_the_commands_it_names_lead_to_a_comparison(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    each = [word for name in ("one", "other") for word in ("--candidate", f"source=arrays source.path={name}.npz")]
    assert main(["rank", *TINY, *TARGET, *each, "--scores", "logme,knn"]) == 0
    out = capsys.readouterr().out
    commands = [shlex.split(line)[1:] for line in out.splitlines() if line.startswith("graft ")]
    assert [words[0] for words in commands] == ["-m", "-m", "rank"]
    for words in commands:
        assert main(words) == 0
    out = capsys.readouterr().out
    assert "weighted Kendall tau" in out
    for row in ranking(images)["candidates"]:
        assert row["fine_tuned"]["n"] == 1
        assert 0 <= row["fine_tuned"]["mean"] <= 1


def test_scores_and_what_to_sort_by(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", *TINY, *TARGET, *SOURCES, "--scores", "knn,leep", "--by", "leep"]) == 0
    assert "sorted by leep" in capsys.readouterr().out
    assert (ranking(images)["scores"], ranking(images)["by"]) == (["knn", "leep"], "leep")


def test_an_earlier_run_is_a_candidate_without_a_known_classifier(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, "target=arrays", "target.path=one.npz", "strategy=scratch"]) == 0
    assert main(["rank", *TINY, *TARGET, "source=none", "backbone.weights=outputs/latest"]) == 0
    [row] = ranking(images)["candidates"]
    assert row["scores"]["leep"] is row["scores"]["nce"] is None
    assert row["scores"]["logme"] is not None
    assert "needs the source's classifier" in capsys.readouterr().out


def test_adding_a_score_is_one_file_and_one_yaml(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (images / "code").mkdir()
    (images / "code" / "size.py").write_text("def size(features, labels, factor):\n    return factor * len(labels)\n")
    (images / "mine" / "score").mkdir(parents=True)
    text = "# How many\n_target_: graft.scores.size.size\n_partial_: true\nfactor: 2\n"
    (images / "mine" / "score" / "size.yaml").write_text(text)
    monkeypatch.setattr(graft.scores, "__path__", [*graft.scores.__path__, str(images / "code")])
    words = ["rank", *TINY, *TARGET, "source=arrays", "source.path=one.npz", "--config-dir", "mine"]
    assert main(words) == 0
    [row] = ranking(images)["candidates"]
    assert row["scores"]["size"] == 96
    assert len(row["scores"]) == 8


def test_an_interrupted_ranking_is_continued_and_a_failed_one_says_so(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["rank", *TINY, *TARGET, *SOURCES, "--scores", "knn"]
    for error, code, status in ((KeyboardInterrupt(), 130, "running"), (RuntimeError("out of luck"), 1, "failed")):

        def judge(*_: Any, error: BaseException = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("graft.ranking.judge", judge)
            assert main(words) == code
        assert ranking(images)["status"] == status
        assert len(list(images.glob("outputs/rank/*"))) == 1
    assert ranking(images)["error"] == "out of luck"
    assert main(words) == 0
    assert len(list(images.glob("outputs/rank/*"))) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scores", "logmee"], "--scores logmee: no such score; did you mean 'logme'?"),
        (["--by", "knm"], "--by knm: no such score; did you mean 'knn'?"),
        (["--scores", "knn", "--by", "leep"], "--by leep: no such score; expected one of: knn"),
        (["target=digits,glyphs"], "target: differs between candidates (digits, glyphs); a ranking is for one target"),
        (["target.labels_per_class=5,10"], "target: differs between candidates (digits); a ranking is for one target"),
        (["--candidate", "backbone=resnet2"], "backbone=resnet2: no such backbone; did you mean 'resnet32'?"),
        (["--candidate", "backbone='cnn"], '--candidate "backbone=\'cnn": no closing quotation'),
        (["--runs", "nowhere"], "nowhere: no such folder"),
        (["--candidate", "backbone.weights=no.pth"], "backbone.weights=no.pth: no such file or folder"),
        (["--mutlirun"], "unrecognized arguments: --mutlirun; graft rank --help says more"),
    ],
)
def test_what_cannot_be_ranked_is_refused(
    words: list[str], message: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rank", *words]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"graft: {message}")
    assert not list(empty_folder.glob("outputs/**/*.safetensors"))


def test_a_score_is_no_part_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score=logme"]) == 1
    assert capsys.readouterr().err == (
        "graft: score=logme: score is not chosen for a run; graft ls score says what is there\n"
    )
