"""Texts from the command line to files: adaptation, ranking, prediction, export, a report; each on small texts."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from texts import reviews, write_encoder, write_reviews, write_text_folder
from working_folder import run, working_in

from graft.cli.main import main
from graft.records.record import load_record

PLACES = ["source.path=texts", "target.path=texts", "source.domain=books", "target.domain=films"]
QUICK = ["trainer=cpu", "trainer.max_epochs=12", "pretrain.max_epochs=12", "logger=none", "baselines=[]"]
BAG = [
    *("source=text_table", "target=text_table", *PLACES, *QUICK),
    *("backbone=bag_of_ngrams", "backbone.buckets=500", "backbone.width=8", "backbone.size=24"),
    *("optimizer.lr=0.05", "pretrain.optimizer.lr=0.05"),
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with texts of two domains and with an encoder, in which the tests work."""
    folder = tmp_path_factory.mktemp("texts")
    write_reviews(folder / "texts", 60)
    write_text_folder(folder / "files", 3)
    write_encoder(folder / "encoder")
    with working_in(folder):
        yield folder


@pytest.fixture(scope="module")
def bag(workplace: Path) -> Path:
    """The folder of a run under a bag of n-grams."""
    run(*BAG, "strategy=linear_probe", "backbone.hidden=8")
    return Path("outputs", "latest").resolve()


def test_a_probe_is_trained_from_cached_features_and_found_again(bag: Path) -> None:
    record = load_record(bag)
    assert record["metrics"]["target/test/accuracy"] > 0.65
    assert record["metrics"]["source/test/accuracy"] > 0.8
    assert (bag.parents[1] / "store" / "features").is_dir()
    assert record["transferred"]["moved"] == 0.0


def test_lines_files_and_tables_are_predicted(
    bag: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*words: str, given: str = "") -> list[dict[str, str]]:
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        capsys.readouterr()
        assert main(["predict", str(bag), *words, "--device", "cpu"]) == 0
        return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    lines = predict("-", given="a great lovely perfect book\n\nawful boring broken\n")
    assert [(row["path"], row["class"]) for row in lines] == [("1", "good"), ("3", "bad")]
    files = predict("files")
    assert [row["path"].split("/")[1] for row in files] == ["bad"] * 3 + ["good"] * 3
    table = predict("texts/films_test.csv")
    assert [row["path"] for row in table][:2] == ["texts/films_test.csv:2", "texts/films_test.csv:3"]
    right = [row["class"] == label for row, (_, label) in zip(table, reviews(10, 11), strict=True)]
    accuracy = sum(right) / len(right)
    assert accuracy == pytest.approx(load_record(bag)["metrics"]["target/test/accuracy"])


@pytest.mark.parametrize("form", ["onnx", "torch_export", "safetensors"])
def test_a_network_is_exported_with_what_makes_tokens(bag: Path, form: str) -> None:
    assert main(["export", str(bag), "--format", form]) == 0
    described = json.loads(next((bag / "export").glob("model*.json")).read_text())
    assert described["modality"] == "text"
    assert described["before"][0]["kind"] == "distinct_hashed_ngrams"
    assert described["input"]["shape"] == ["n", 24]
    assert described["input"]["type"] == ("int64" if form == "safetensors" else "int32")
    assert "A classifier of texts" in (bag / "export" / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize(("method", "above"), [("dann", 0.6), ("fixmatch", 0.5), ("shot_im", 0.6)])
def test_adaptation_without_labels(workplace: Path, method: str, above: float) -> None:
    views = ["target.augmentation.token_dropout=0.2"] if method == "fixmatch" else []
    words = [word for word in BAG if word != "baselines=[]"]
    record = run(*words, f"adaptation={method}", "trainer.max_epochs=2", *views)
    assert record["training_labels"] == 0
    assert record["metrics"]["target/test/accuracy"] > above


def test_subwords_travel_with_the_weights(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["backbone.vocabulary=300", "backbone.width=16", "backbone.depth=1", "backbone.heads=2", "backbone.size=16"]
    words = [word for word in BAG if not word.startswith(("backbone", "optimizer", "pretrain.optimizer"))]
    record = run(*words, "backbone=text_transformer", *small, "strategy=gradual_unfreeze", "trainer.max_epochs=6")
    assert record["status"] == "done"
    folder = str(Path("outputs", "latest").resolve())
    Path("texts").rename("gone")
    try:
        assert main(["predict", folder, "files", "--device", "cpu"]) == 0
    finally:
        Path("gone").rename("texts")
    assert len(capsys.readouterr().out.splitlines()) >= 7
    assert main(["export", folder, "--format", "torch_export"]) == 0
    reused = [*words, "backbone=text_transformer", *small, f"backbone.weights={folder}", "source=none"]
    reused = [word for word in reused if not word.startswith("source.") and word != "source=text_table"]
    again = run(*reused, "strategy=linear_probe")
    assert again["fingerprints"]["preprocessing"] == record["fingerprints"]["preprocessing"]


ENCODER = ["source=none", "target=text_table", "target.path=texts", "target.domain=films", *QUICK]
ENCODER += ["backbone=hugging_face", "backbone.path=encoder", "backbone.weights=DEFAULT", "trainer.max_epochs=4"]


@pytest.mark.parametrize("words", [["strategy=linear_probe"], ["adapter=lora"], ["strategy=gradual_unfreeze"]], ids=str)
def test_an_encoder_of_hugging_face(workplace: Path, words: list[str]) -> None:
    record = run(*ENCODER, *words)
    moved = {name: row["moved"] for name, row in record["transferred"]["groups"].items()}
    if words == ["strategy=gradual_unfreeze"]:
        assert list(moved) == ["embeddings", "layer0", "layer1"]
        assert all(moved.values())
    if words == ["adapter=lora"]:
        assert record["adapter"]["layers"]
    assert main(["export", "outputs/latest", "--format", "torch_export"]) == 0


@pytest.mark.parametrize("precision", ["bf16-mixed", "auto"])
def test_precisions(workplace: Path, precision: str) -> None:
    record = run(*BAG, "strategy=fine_tune", f"precision={precision}", "memory_format=auto")
    assert record["metrics"]["target/test/accuracy"] > 0.6


def test_two_tables_are_one_source(workplace: Path) -> None:
    words = [word for word in BAG if not word.startswith("source")]
    parts = [f"source.parts.{part}.path=texts" for part in ("text_table", "text_table_2")]
    parts += ["source.parts.text_table.domain=books", "source.parts.text_table_2.domain=films"]
    record = run("source=text_table+text_table", *parts, *words, "source.augmentation.token_dropout=0.1")
    assert record["source"] == "text_table+text_table_2"
    assert record["metrics"]["target/test/accuracy"] > 0.6


def test_a_plan_speaks_of_texts(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *BAG]) == 0
    shown = capsys.readouterr().out
    assert "pretraining" in shown
    assert "image" not in shown


def test_candidates_are_ranked_and_runs_reported(bag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", *BAG[:6], *BAG[11:], "trainer=cpu", "--scores", "logme,knn"]) == 0
    assert main(["report", "outputs"]) == 0
    assert "bag_of_ngrams" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["target=digits", "target.labels_per_class=5"], "digits holds images, and the backbone takes texts"),
        (["backbone=cnn"], "holds texts, and the backbone takes images; for texts choose backbone=bag_of_ngrams"),
        (["adapter=visual_prompt"], "adapter=visual_prompt: it changes images"),
        (["target.augmentation.mixup=0.2"], "mixup"),
        (["after=tta"], "after.tta: it averages crops and mirror images, which texts and sounds have not"),
        (["after=tta", "after.tta.flip=true", "after.tta.num_views=1"], "after=tta: it averages crops"),
    ],
)
def test_what_makes_no_sense_for_texts_says_so(
    workplace: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = BAG if words != ["backbone=cnn"] else [word for word in BAG if not word.startswith("backbone")]
    if words[0] == "target=digits":
        base = [word for word in base if not word.startswith("target")]
    assert main([*base, *words]) != 0
    said = capsys.readouterr().err
    assert re.search(message, said), said


def test_pictures_of_texts_are_refused(bag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["interpret", str(bag), "--device", "cpu"]) != 0
    assert "it draws images, and the run's inputs are text" in capsys.readouterr().err
