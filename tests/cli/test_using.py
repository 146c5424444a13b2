"""`graft predict`, `evaluate` and `export` on one small run over image files, from the command line to their files."""

import csv
import io
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from working_folder import working_in

from graft.build.assembly import build_blueprint, make_domain
from graft.cli.main import main
from graft.data.images import open_images
from graft.data.readers.base import RawSplit
from graft.evaluation import evaluation_loader, predict
from graft.inference import exporting
from graft.inference.trained import open_trained
from graft.records.record import load_record, write_record

CLASSES = ("ant", "bee", "wasp")
RUN = [
    *("source=none", "target=image_folder", "target.path=photos", "target.val_fraction=0.25", "target.batch_size=8"),
    *("strategy=scratch", "trainer=cpu", "trainer.max_epochs=2", "optimizer.lr=0.003", "baselines=[]", "logger=none"),
    *("after=[temperature]", "analysis.cka_images=0"),
]


def write_photos(root: Path, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """Noise around a colour for each class, as PNG files that are neither square nor of the network's size."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        colour = np.roll([150, 110, 110], label)
        for split, count in (("train", 12), ("test", 6)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = (colour + rng.normal(0, 60, (40, 52, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one run has ended; the tests work in it."""
    folder = tmp_path_factory.mktemp("using")
    with working_in(folder):
        write_photos(folder / "photos")
        assert main(RUN) == 0
    return folder


@pytest.fixture
def run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's folder, under the name that a user types."""
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    return Path("outputs", "latest")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def expected_probabilities(run: Path) -> np.ndarray:
    """[n, k] of the test images in order, through the domain and the loop of the run's own evaluation."""
    record = load_record(run)
    domain = make_domain(record["config"]["target"])
    trained = open_trained(build_blueprint(record["config"]), run, record)
    assert domain is not None
    domain.load(trained.preprocessing)
    logits, _ = predict(trained.network, evaluation_loader(domain, "test"), domain.view, torch.device("cpu"))
    temperature = record["after"]["temperature"]["temperature"]
    return (logits.double() / temperature).softmax(1).numpy()


class TestPredict:
    def test_is_what_the_run_found_for_its_test_images(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["predict", str(run), "photos/test", "--probabilities"]) == 0
        done = capsys.readouterr()
        found, record = rows(done.out), load_record(run)
        paths = [row["path"] for row in found]
        assert paths == [f"photos/test/{name}/{index}.png" for name in CLASSES for index in range(6)]
        labels = [CLASSES.index(path.split("/")[2]) for path in paths]
        predicted = [CLASSES.index(row["class"]) for row in found]
        confusion = np.zeros((3, 3), int)
        np.add.at(confusion, (labels, predicted), 1)
        assert confusion.tolist() == record["classes"]["confusion"]
        probabilities = np.array([[float(row[f"probability_of_{name}"]) for name in CLASSES] for row in found])
        np.testing.assert_allclose(probabilities, expected_probabilities(run), rtol=6e-6)
        assert [float(row["probability"]) for row in found] == probabilities.max(1).tolist()
        calibrated = record["after"]["temperature"]
        loss = -np.log(probabilities[range(18), labels]).mean()
        assert loss == pytest.approx(calibrated["metrics"]["target/test/loss"], rel=1e-4)
        assert f"calibrated by the run's temperature, {calibrated['temperature']:.4g}" in done.err

    def test_json_lines_of_any_batch_size_and_from_standard_input(
        self, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert main(["predict", str(run), "photos/test", "--top-k", "2"]) == 0
        by_csv = rows(capsys.readouterr().out)
        names = [row["path"] for row in by_csv]
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*names, "", ""])))
        words = ["predict", str(run), "-", "--format", "json", "--top-k", "2", "--probabilities", "--batch-size", "5"]
        assert main([*words, "--output", "found.jsonl"]) == 0
        assert capsys.readouterr().out == ""
        found = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
        assert [row["path"] for row in found] == names
        for row, other in zip(found, by_csv, strict=True):
            assert row["top"][0] == {"class": row["class"], "probability": row["probability"]}
            assert [item["class"] for item in row["top"]] == [other["class"], other["class_2"]]
            assert [item["probability"] for item in row["top"]] == sorted(row["probabilities"].values())[:0:-1]
            assert row["probability"] == pytest.approx(float(other["probability"]), rel=1e-4)
            assert list(row["probabilities"]) == list(CLASSES)
            assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)

    def test_broken_images_are_named_and_the_others_predicted(
        self, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        for name in ("b.png", ".hidden.png"):
            shutil.copy("photos/test/bee/0.png", tmp_path / name)
        (tmp_path / "a.png").write_text("not an image")
        (tmp_path / "c.png").write_bytes(Path("photos/test/bee/0.png").read_bytes()[:200])
        (tmp_path / "notes.txt").write_text("not an image by its name")
        assert main(["predict", str(run), str(tmp_path), str(tmp_path / "notes.txt")]) == 1
        done = capsys.readouterr()
        assert [row["path"] for row in rows(done.out)] == [str(tmp_path / "b.png")]
        assert f"cannot be read: {tmp_path / 'a.png'} (not an image)" in done.err
        assert f"cannot be read: {tmp_path / 'c.png'} (" in done.err
        assert f"cannot be read: {tmp_path / 'notes.txt'} (not an image)" in done.err
        assert "predicted 1 images; passed over 1 whose names are not those of images: notes.txt" in done.err
        assert "3 of 4 could not be predicted" in done.err
        (tmp_path / "notes.txt").unlink()

    def test_arrays_are_brought_to_the_network_as_a_domain_brings_them(
        self, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        images = np.random.default_rng(0).integers(0, 256, (5, 45, 38), dtype=np.uint8)
        np.savez(tmp_path / "images.npz", x=images, y=np.arange(5))
        np.savez(tmp_path / "floats.npz", images / 255)
        (tmp_path / "broken.npz").write_bytes(b"PK")
        files = [str(tmp_path / f"{name}.npz") for name in ("images", "floats", "broken")]
        assert main(["predict", str(run), *files, "--probabilities"]) == 1
        done = capsys.readouterr()
        found = rows(done.out)
        assert [row["path"] for row in found] == [f"{files[0]}[{index}]" for index in range(5)]
        assert "arr_0 is float64 [5, 45, 38]; expected uint8 [n, h, w]" in done.err
        assert f"cannot be read: {files[2]} (" in done.err
        record = load_record(run)
        trained = open_trained(build_blueprint(record["config"]), run, record)
        canvases, _ = open_images(RawSplit(images, np.arange(5)), trained.preprocessing, keep=True)
        expected = trained.calibrated(trained.logits(canvases.canvases(torch.arange(5)))).softmax(1)
        probabilities = [[float(row[f"probability_of_{name}"]) for name in CLASSES] for row in found]
        np.testing.assert_allclose(probabilities, expected.numpy(), rtol=6e-6)

    @pytest.mark.parametrize(
        ("words", "error"),
        [
            (["outputs/lates", "photos"], "outputs/lates: no such folder; did you mean"),
            (["photos", "photos"], "photos: not the folder of a run; expected record.json in it"),
            (["outputs", "photos"], "outputs: a folder with runs; expected the folder of one run, such as"),
            (["RUN", "photo/test", "fotos"], "photo/test: no such file or folder; did you mean 'photos'?"),
            (["RUN", "photos", "--top-k", "4"], "--top-k 4: the run has 3 classes"),
            (["RUN", "photos", "--batch-size", "0"], "--batch-size 0: expected a positive number"),
            (["RUN", "empty"], "no images in empty; passed over 1 whose names are not those of images: notes.txt"),
            (["RUN", "photos", "--output", "empty"], "--output empty: a folder; expected the name of a file"),
            (["RUN", "photos", "--device", "mps"], "--device mps: there is none here that torch can use; expected"),
            (["RUN"], "the following arguments are required: FILE|DIR|-; graft predict --help says more"),
        ],
    )
    def test_what_cannot_be_done_is_said_in_a_line(
        self, words: list[str], error: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        Path("empty").mkdir(exist_ok=True)
        Path("empty", "notes.txt").touch()
        assert main(["predict", *(str(run) if word == "RUN" else word for word in words)]) == 1
        assert error in capsys.readouterr().err

    def test_runs_that_have_no_network_are_refused(
        self, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        def refused(**changes: Any) -> str:
            folder = tmp_path / "sweep" / "0"
            folder.mkdir(parents=True, exist_ok=True)
            write_record(folder, load_record(run) | changes)
            assert main(["predict", str(folder), "photos"]) == 1
            return capsys.readouterr().err

        assert "its run failed; graft resume" in refused(status="failed")
        assert "its run has not ended; graft resume" in refused(status="running")
        assert "holds no weights/network.safetensors" in refused()
        (tmp_path / "sweep" / "0" / "weights").mkdir()
        weights = tmp_path / "sweep" / "0" / "weights" / "network.safetensors"
        weights.write_bytes((run / "weights" / "network.safetensors").read_bytes()[:500])
        assert "is damaged, or not the network of a run" in refused()
        shutil.copy(run / "weights" / "network.safetensors", weights)
        classes = load_record(run)["classes"] | {"names": ["ant", "bee"]}
        assert "does not fit the network of the record" in refused(classes=classes)
        (tmp_path / "sweep" / "sweep.json").write_text("{}")
        assert main(["predict", str(tmp_path / "sweep"), "photos"]) == 1
        assert "a sweep; expected the folder of one run, such as" in capsys.readouterr().err


class TestInterpret:
    def test_losses_pictures_and_figures(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["interpret", str(run), "--top", "5"]) == 0
        assert "wrote" in capsys.readouterr().out
        folder, record = run.resolve() / "interpret", load_record(run)
        found = json.loads((folder / "interpretation.json").read_text())
        probabilities, labels = expected_probabilities(run), np.repeat(np.arange(3), 6)
        losses = -np.log(probabilities[range(18), labels])
        table = rows((folder / "losses.csv").read_text())
        assert [float(row["loss"]) for row in table] == pytest.approx(np.sort(losses)[::-1].tolist(), rel=1e-4)
        first = int(losses.argmax())
        assert table[0]["image"].endswith(f"photos/test/{CLASSES[first // 6]}/{first % 6}.png")
        assert table[0]["predicted"] == CLASSES[int(probabilities[first].argmax())]
        assert [row["loss"] for row in found["top_losses"]] == [float(row["loss"]) for row in table[:5]]
        assert found["confusion"] == record["classes"]["confusion"]
        assert found["accuracy"] == record["metrics"]["target/test/accuracy"]
        assert found["map_layer"] == "stage1.pool"
        pairs = {(pair["label"], pair["predicted"]): pair["samples"] for pair in found["most_confused"]}
        named = {(m["label"], m["predicted"]): m["samples"] for m in record["classes"]["most_confused"]}
        assert pairs == named
        pictures = ["top_losses.png", "confusion.png", *(pair["picture"] for pair in found["most_confused"])]
        page = (folder / "index.html").read_text()
        for name in pictures:
            assert f'src="{name}"' in page
            with Image.open(folder / name) as picture:
                assert min(picture.size) > 30

    def test_another_split_elsewhere(self, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert main(["interpret", str(run), "--split", "val", "--output", str(tmp_path / "val")]) == 0
        assert len(rows((tmp_path / "val" / "losses.csv").read_text())) == 9
        capsys.readouterr()

    def test_no_number_of_images(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["interpret", str(run), "--top", "0"]) == 1
        assert capsys.readouterr().err == "graft: --top 0: expected a positive number\n"


def evaluation(folder: Path) -> dict[str, Any]:
    newest = max((folder / "outputs" / "evaluate").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    found: dict[str, Any] = json.loads((newest / "evaluation.json").read_text())
    return found


class TestEvaluate:
    def test_the_own_target_gives_the_figures_of_the_record(
        self, run: Path, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (workplace / "elsewhere").mkdir()
        monkeypatch.chdir(workplace / "elsewhere")
        assert main(["evaluate", str(workplace / run), "--device", "cpu"]) == 0
        out = capsys.readouterr().out
        found, record = evaluation(workplace), load_record(workplace / run)
        assert found["same_data_as_in_run"] is True
        assert found["num_images"] == 18
        assert found["scores"]["confusion"] == record["classes"]["confusion"]
        temperature = record["after"]["temperature"]["metrics"]
        for name in ("accuracy", "loss", "calibration_error", "brier_score"):
            assert found["scores"][name] == pytest.approx(record["metrics"][f"target/test/{name}"], rel=1e-5)
            assert found["calibrated"][name] == pytest.approx(temperature[f"target/test/{name}"], rel=1e-5)
        assert f"{100 * found['scores']['accuracy']:.1f} % of 18 samples" in out
        assert all(name in out for name in CLASSES)

    def test_other_data_of_the_same_classes(
        self, run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_photos(workplace / "more", seed=1)
        words = ["target=image_folder", "target.path=more", "--split", "all"]
        assert main(["evaluate", str(run), *words]) == 0
        found = evaluation(workplace)
        assert (found["target"], found["num_images"], found["same_data_as_in_run"]) == ("more", 54, False)
        assert main(["evaluate", str(run), "target.path=more"]) == 0  # the run's own target, elsewhere
        again = evaluation(workplace)
        assert (again["target"], again["num_images"]) == ("more", 18)
        assert again["target_config"]["val_fraction"] == 0.25
        capsys.readouterr()

    def test_values_change_the_own_target(self, run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate", str(run), "target.val_fraction=0.5", "--split", "val"]) == 0
        assert evaluation(workplace)["num_images"] == 18
        assert "Other data: data, splits or label budget are not those of the run" in capsys.readouterr().out

    def test_other_classes_are_refused_by_name(
        self, run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_photos(workplace / "others", ("ant", "bee", "hornet"))
        assert main(["evaluate", str(run), "target.path=others"]) == 1
        error = capsys.readouterr().err
        assert "the classes of others are not those of the run: only the run: 'wasp'; only others: 'hornet'" in error

    @pytest.mark.parametrize(
        ("words", "error"),
        [
            (["strategy=lp_ft"], "strategy=lp_ft: is settled by the run; only target=NAME and target.KEY=VALUE"),
            (["target=image_foldr"], "target=image_foldr: no such target; did you mean 'image_folder'?"),
            (["target.val_fractio=0.5"], "target.val_fractio: no such key; did you mean 'target.val_fraction'?"),
            (["target=cifar10,stl10"], "target=cifar10,stl10: several values; expected one"),
            (["target.path=nowhere"], "path=nowhere: no such folder"),
            (["target=none"], "target=none: there must be one"),
            (["target.val_fraction=0", "--split", "val"], "photos: has no val samples"),
        ],
    )
    def test_what_cannot_be_done_is_said_in_a_line(
        self, words: list[str], error: str, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["evaluate", str(run), *words]) == 1
        assert error in capsys.readouterr().err


def pixels(run: Path) -> torch.Tensor:
    """The run's test images uint8 [n, c, size, size], resized and cropped as the JSON file beside a file says."""
    record = load_record(run)
    trained = open_trained(build_blueprint(record["config"]), run, record)
    domain = make_domain(record["config"]["target"])
    assert domain is not None
    domain.load(trained.preprocessing)
    test = domain.datasets["test"]
    return test.images.canvases(test.positions)


class TestExport:
    def by_onnx(self, path: Path, images: torch.Tensor) -> np.ndarray:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        [probabilities] = session.run(["probabilities"], {"images": images.numpy()})
        return np.asarray(probabilities)

    def by_torch_export(self, path: Path, images: torch.Tensor) -> np.ndarray:
        _, probabilities = torch.export.load(path).module()(images)
        return np.asarray(probabilities.detach().numpy())

    def by_torchscript(self, path: Path, images: torch.Tensor) -> np.ndarray:
        _, probabilities = torch.jit.load(path)(images)
        return np.asarray(probabilities.detach().numpy())

    @pytest.mark.parametrize("kind", ["onnx", "torch_export", "torchscript"])
    @pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
    def test_files_give_the_probabilities_of_predict_in_any_batch(
        self, kind: str, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        path = tmp_path / kind / f"classifier{exporting.SUFFIXES[kind]}"
        assert main(["export", str(run), "--format", kind, "--output", str(path)]) == 0, capsys.readouterr().err
        done = capsys.readouterr()
        assert f"wrote {path}" in done.out
        assert ("PyTorch has deprecated TorchScript" in done.err) == (kind == "torchscript")
        found = getattr(self, f"by_{kind}")
        images, expected = pixels(run), expected_probabilities(run)
        np.testing.assert_allclose(found(path, images), expected, atol=1e-5)
        np.testing.assert_allclose(found(path, images[:1]), expected[:1], atol=1e-5)
        described = json.loads((path.parent / "classifier.json").read_text())
        assert described["classes"] == list(CLASSES)
        assert described["input"] == {"name": "images", "type": "uint8", "shape": ["n", 3, 32, 32]}
        assert described["largest_difference"]["probabilities"] < 1e-5
        assert described["temperature"] == load_record(run)["after"]["temperature"]["temperature"]
        assert sorted(file.name for file in path.parent.iterdir()) == [
            "MODEL_CARD.md",
            "classifier.json",
            path.name,
        ]

    def test_weights_alone_say_what_they_are(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["export", str(run), "--format", "safetensors"]) == 0
        assert "wrote" in capsys.readouterr().out
        with safe_open(run / "export" / "model.safetensors", framework="pt") as file:
            assert json.loads(file.metadata()["classes"]) == list(CLASSES)
            assert json.loads(file.metadata()["preprocessing"])["size"] == 32
        described = json.loads((run / "export" / "model.json").read_text())
        assert described["inside"] == []
        assert described["before"][-1]["step"].startswith("(pixel * scale - mean) / std")
        card = (run / "export" / "MODEL_CARD.md").read_text()
        accuracy = load_record(run)["metrics"]["target/test/accuracy"]
        assert f"Accuracy: {100 * accuracy:.1f} % on 18 test samples of photos." in card
        assert "Gain: not measured, the run had no baseline." in card

    def test_a_file_that_computes_something_else_is_refused(
        self, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def write(deployable: exporting.Deployable, path: Path) -> None:
            deployable.network.head.linear.bias.data[0] += 0.01
            torch.export.save(torch.export.export(deployable, (deployable.noise(2),)), path)
            deployable.network.head.linear.bias.data[0] -= 0.01

        def refused() -> str:
            output = tmp_path / "model.pt2"
            assert main(["export", str(run), "--format", "torch_export", "--output", str(output)]) == 1
            assert list(tmp_path.iterdir()) == []
            return capsys.readouterr().err

        kind = exporting.FORMATS["torch_export"]
        monkeypatch.setitem(exporting.FORMATS, "torch_export", exporting.Format(write, kind.read))
        assert "this network cannot be exported" in refused()  # its batch is of two, always
        monkeypatch.setattr(exporting, "BATCHES", (2,))
        assert "the file computes something else than the network: logits differ by" in refused()

    def test_a_card_of_the_users_own_is_left(
        self, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "MODEL_CARD.md").write_text("mine")
        output = str(tmp_path / "a.safetensors")
        assert main(["export", str(run), "--format", "safetensors", "--output", output]) == 0
        assert (tmp_path / "MODEL_CARD.md").read_text() == "mine"
        assert "is not one that graft wrote; left as it is" in capsys.readouterr().err

    def test_packages_and_names_that_are_missing(
        self, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxruntime" else name)
        assert main(["export", str(run), "--format", "onnx"]) == 1
        assert "onnxruntime not installed; pip install 'graft[export]'" in capsys.readouterr().err
        assert main(["export", str(run), "--format", "onnx", "--output", "model.pt"]) == 1
        assert "--output model.pt: expected the name of a file that ends in .onnx" in capsys.readouterr().err
