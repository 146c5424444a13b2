"""Everything that a run of images goes through, on small generated sounds: two singers, three notes."""

import csv
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from sounds import tone, write_wav
from working_folder import working_in

from graft.cli.main import main
from graft.data.waveforms import Sampling, decode_sound
from graft.records.record import load_record

NOTES = {"do": 300, "mi": 600, "sol": 1200}
RATE, SECONDS, NUM = 4000, 0.25, 12
DOMAINS = [
    f"{side}{setting}"
    for side, singer in (("source", "ann"), ("target", "bob"))
    for setting in ("=audio_folder", ".path=songs", f".domain={singer}", ".sample_rate=4000", ".seconds=0.25")
]
SHORT = ["trainer=cpu", "logger=none", "analysis.cka_images=0", "baselines=[]", "pretrain.max_epochs=4"]
SHORT += ["optimizer.lr=0.003", "pretrain.optimizer.lr=0.003", "trainer.max_epochs=3"]


def write_songs(root: Path) -> None:
    rng = np.random.default_rng(0)
    for singer, factor in (("ann", 1.0), ("bob", 0.9)):
        for note, frequency in NOTES.items():
            for i in range(NUM):
                sound = tone(factor * frequency * rng.uniform(0.95, 1.05), RATE, SECONDS, 0.3)
                noise = rng.normal(0, 100, len(sound))
                write_wav(root / singer / note / f"{i}.wav", (sound + noise).astype(np.int16), RATE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one run has ended; the tests work in it."""
    folder = tmp_path_factory.mktemp("sounds")
    with working_in(folder):
        write_songs(folder / "songs")
        assert main([*DOMAINS, *SHORT, "name=gradual", "strategy=gradual_unfreeze", "trainer.max_epochs=6"]) == 0
    return folder


@pytest.fixture
def run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's folder."""
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    return next(workplace.glob("outputs/gradual/*"))


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def last_record(name: str) -> dict[str, Any]:
    return load_record(next(Path("outputs", name).iterdir()))


def test_a_run_learns_and_states_what_it_heard(run: Path) -> None:
    record = load_record(run)
    assert (record["source"], record["target"]) == ("ann", "bob")
    assert record["metrics"]["target/test/accuracy"] > 0.6
    assert record["classes"]["names"] == list(NOTES)


def test_a_file_a_folder_and_what_is_broken_is_predicted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run), "songs/bob/do/0.wav"]) == 0
    [row] = rows(capsys.readouterr().out)
    assert row["path"] == "songs/bob/do/0.wav"
    assert row["class"] in NOTES
    folder = Path("mixed")
    write_wav(folder / "one.wav", tone(270, RATE, SECONDS), RATE)
    (folder / "two.wav").write_bytes(b"RIFF")
    (folder / "notes.txt").touch()
    assert main(["predict", str(run), "mixed"]) == 1
    done = capsys.readouterr()
    assert [found["path"] for found in rows(done.out)] == ["mixed/one.wav"]
    assert "mixed/two.wav (not a WAV file)" in done.err
    assert "passed over 1" in done.err


def test_evaluation_agrees_with_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run)]) == 0
    found = json.loads(next(Path("outputs", "evaluate").glob("*/evaluation.json")).read_text())
    assert found["scores"]["accuracy"] == load_record(run)["metrics"]["target/test/accuracy"]
    assert main(["evaluate", str(run), "target.domain=ann", "--split", "all"]) == 0
    assert main(["evaluate", str(run), "target.seconds=0.5"]) == 1
    assert "seconds=0.5: the network's other sounds have seconds=0.25" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_an_exported_network_takes_waveforms(run: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run), "songs/bob"]) == 0
    predicted = rows(capsys.readouterr().out)
    assert main(["export", str(run), "--format", kind]) == 0
    described = json.loads((run / "export" / "model.json").read_text())
    assert described["input"] == {"name": "waveforms", "type": "int16", "shape": ["n", 1000]}
    sampling = Sampling(described["before"][1]["to"], SECONDS)
    waveforms = np.stack([np.asarray(decode_sound(Path(row["path"]), sampling)) for row in predicted])
    if kind == "onnx":
        session = onnxruntime.InferenceSession(run / "export" / "model.onnx", providers=["CPUExecutionProvider"])
        [logits] = session.run(["logits"], {"waveforms": waveforms})
    else:
        logits = (
            torch.export.load(run / "export" / "model.pt2").module()(torch.from_numpy(waveforms))[0].detach().numpy()
        )
    assert [described["classes"][index] for index in logits.argmax(1)] == [row["class"] for row in predicted]
    assert "A classifier of sounds" in (run / "export" / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("method", ["coral", "shot", "fixmatch"])
def test_adaptation(run: Path, method: str) -> None:
    assert main([*DOMAINS, *SHORT, f"name={method}", f"adaptation={method}"]) == 0
    assert last_record(method)["status"] == "done"


def test_frozen_features_are_cached(run: Path) -> None:
    probe = ["strategy=linear_probe", "target.augmentation.shift=0", "target.augmentation.time_masks=0"]
    assert main([*DOMAINS, *SHORT, *probe, "target.augmentation.frequency_masks=0", "name=probe"]) == 0
    assert list(Path("outputs/store/features").glob("*/*"))


def test_weights_of_a_run_on_sounds_are_taken_by_another(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["source=none", *DOMAINS[5:], *SHORT, f"backbone.weights={run}", "name=taken"]) == 0
    assert main(["source=none", "target=digits", *SHORT, f"backbone.weights={run}", "name=refused"]) == 1
    assert "digits holds images, and the backbone takes sounds" in capsys.readouterr().err


def test_ranking_and_report(run: Path) -> None:
    assert main(["rank", *DOMAINS, *SHORT, "strategy=linear_probe"]) == 0
    assert main(["report", "outputs/gradual", "--html", "report.html"]) == 0


def test_sounds_of_two_rates_do_not_meet(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DOMAINS, *SHORT, "source.sample_rate=8000"]) == 1
    assert "sample_rate=8000: the network's other sounds have sample_rate=4000" in capsys.readouterr().err


TWO = [
    "source=audio_folder+audio_folder",
    *(word.replace("source.", "source.parts.audio_folder.") for word in DOMAINS[1:5]),
]
TWO += [word.replace("target.", "source.parts.audio_folder_2.") for word in DOMAINS[6:]]


def test_two_folders_of_sounds_are_one_source(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TWO, *DOMAINS[5:], *SHORT, "name=two", "source.augmentation.noise=[10,40]"]) == 0
    assert last_record("two")["status"] == "done"
    assert main([*TWO, *DOMAINS[5:], *SHORT, "source.parts.audio_folder_2.seconds=0.5"]) == 1
    assert "seconds=0.5: the network's other sounds have seconds=0.25" in capsys.readouterr().err


def test_sounds_and_images_are_not_joined(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in TWO[1:] if "audio_folder_2" not in word]
    assert main(["source=audio_folder+digits", *words, *DOMAINS[5:], *SHORT]) == 1
    assert "digits holds images, and the backbone takes sounds" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["bf16-mixed", "auto"])
def test_precisions(run: Path, precision: str) -> None:
    name = f"precision_{precision}"
    assert main([*DOMAINS, *SHORT, f"precision={precision}", "memory_format=auto", f"name={name}"]) == 0
    record = last_record(name)
    assert record["metrics"]["target/test/accuracy"] > 0.6


def test_a_plan_speaks_of_sounds(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *DOMAINS, *SHORT]) == 0
    shown = capsys.readouterr().out
    assert "pretraining" in shown
    assert "image" not in shown
