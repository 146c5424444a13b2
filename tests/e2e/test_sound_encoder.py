"""Encoders of waveforms from the command line to files: frozen, LoRA, thawed, wholly trained; used and exported."""

import csv
import io
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from sounds import tone, write_sound_encoder, write_wav
from working_folder import run, working_in

from graft.cli.main import main
from graft.data.sound_view import SoundView
from graft.data.waveforms import Sampling, decode_sound
from graft.records.record import load_record

NOTES = {"do": 300, "mi": 600, "sol": 1200}
RATE, SECONDS, NUM = 4000, 0.25, 12
TARGET = ["target=audio_folder", "target.path=songs", "target.domain=bob"]
LENGTH = [f"target.sample_rate={RATE}", f"target.seconds={SECONDS}"]
ENCODER = ["backbone=hugging_face_audio", "backbone.path=speech", "backbone.weights=DEFAULT"]
QUICK = ["trainer=cpu", "logger=none", "baselines=[]", "trainer.max_epochs=3", "optimizer.lr=0.003"]
WORDS = [*TARGET, *LENGTH, *ENCODER, *QUICK]
GRADUAL = [*WORDS, "strategy=gradual_unfreeze", "trainer.max_epochs=10"]
FIXED = [f"target.augmentation.{name}=0" for name in ("shift", "time_masks", "frequency_masks")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with notes of two singers and two encoders, in which the tests work."""
    folder = tmp_path_factory.mktemp("encoders")
    rng = np.random.default_rng(0)
    for singer, factor in (("ann", 1.0), ("bob", 0.9)):
        for note, frequency in NOTES.items():
            for i in range(NUM):
                sound = tone(factor * frequency * rng.uniform(0.95, 1.05), RATE, SECONDS, 0.3)
                noisy = (sound + rng.normal(0, 100, len(sound))).astype(np.int16)
                write_wav(folder / "songs" / singer / note / f"{i}.wav", noisy, RATE)
    layer = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "mask_time_prob": 0.3, "layerdrop": 0.3}
    write_sound_encoder(folder / "speech", rate=RATE, **layer)
    write_sound_encoder(folder / "wavlm", "wavlm", RATE, normalise=False)
    with working_in(folder):
        yield folder


@pytest.fixture(scope="module")
def trained(workplace: Path) -> Path:
    """The folder of a run that thawed an encoder block by block."""
    run(*GRADUAL)
    return Path("outputs", "latest").resolve()


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def moved(record: dict[str, Any]) -> dict[str, float]:
    return {name: row["moved"] for name, row in record["transferred"]["groups"].items()}


def test_all_groups_are_thawed_and_compared(trained: Path) -> None:
    record = load_record(trained)
    assert list(moved(record)) == ["stem", "embeddings", "layer0", "layer1"]
    assert all(moved(record).values())
    assert all(row["cka"] is not None for row in record["transferred"]["groups"].values())
    assert record["metrics"]["target/test/accuracy"] > 0.6


def test_a_frozen_encoder_is_run_once_for_each_sound(workplace: Path) -> None:
    record = run(*WORDS, *FIXED, "strategy=linear_probe")
    assert list(Path("outputs/store/features").glob("*/*"))
    assert not any(moved(record).values())


def test_lora(workplace: Path) -> None:
    record = run(*WORDS, "adapter=lora", "backbone.path=wavlm")
    assert record["adapter"]["layers"]
    assert moved(record)["stem"] == 0.0, "LoRA is for linear layers, and the first convolutions are none"
    assert main(["export", "outputs/latest", "--format", "torch_export"]) == 0


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights" / "network.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_whole_encoder_in_half_precision_repeats_itself(workplace: Path) -> None:
    found = []
    for name in ("first", "again"):
        words = ["strategy=fine_tune", "precision=bf16-mixed", "target.augmentation.mixup=0.2", f"name={name}"]
        record = run(*WORDS, *words)
        found.append(weights(Path("outputs", "latest").resolve()))
    assert record["numerics"]["precision"] == "bf16-mixed"
    assert all(moved(record).values())
    assert same(*found)


def test_a_run_goes_on_where_it_was_left(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, train = count(), SoundView.train

    def interrupted(view: SoundView, *arguments: Any) -> Any:
        if next(calls) == 7:  # in the eighth epoch, which has one batch
            raise KeyboardInterrupt
        return train(view, *arguments)

    monkeypatch.setattr(SoundView, "train", interrupted)
    assert main([*GRADUAL, "name=left"]) == 130
    folder = Path("outputs", "latest").resolve()
    assert load_record(folder)["status"] == "running"
    assert main(["resume", str(folder)]) == 0
    assert same(weights(folder), weights(trained))


def test_a_file_and_a_folder_are_predicted(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(trained), "songs/bob/do/0.wav"]) == 0
    [row] = rows(capsys.readouterr().out)
    assert row["class"] in NOTES
    assert main(["predict", str(trained), "songs/bob"]) == 0
    assert len(rows(capsys.readouterr().out)) == len(NOTES) * NUM


def test_evaluation_agrees_with_the_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained)]) == 0
    found = json.loads(next(Path("outputs", "evaluate").glob("*/evaluation.json")).read_text())
    assert found["scores"]["accuracy"] == load_record(trained)["metrics"]["target/test/accuracy"]
    assert main(["evaluate", str(trained), "target.seconds=0.5"]) == 1
    assert "seconds=0.5: the network's other sounds have seconds=0.25" in capsys.readouterr().err


@pytest.mark.parametrize("form", [pytest.param("onnx", marks=pytest.mark.slow), "safetensors"])
def test_an_exported_network_takes_waveforms(trained: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(trained), "songs/bob/mi"]) == 0
    predicted = rows(capsys.readouterr().out)
    assert main(["export", str(trained), "--format", form]) == 0
    described = json.loads((trained / "export" / "model.json").read_text())
    assert described["input"]["type"] == ("float32" if form == "safetensors" else "int16")
    assert described["input"]["shape"] == ["n", 1000]
    card = (trained / "export" / "MODEL_CARD.md").read_text()
    assert ("Inside: samples are scaled and normalised." in card) == (form != "safetensors")
    waveforms = np.stack([np.asarray(decode_sound(Path(row["path"]), Sampling(RATE, SECONDS))) for row in predicted])
    if form == "onnx":
        session = onnxruntime.InferenceSession(trained / "export" / "model.onnx", providers=["CPUExecutionProvider"])
        [logits] = session.run(["logits"], {"waveforms": waveforms})
        assert [described["classes"][index] for index in logits.argmax(1)] == [row["class"] for row in predicted]


def test_adaptation_of_an_encoder(workplace: Path) -> None:
    source = [word.replace("target", "source") for word in (*TARGET, *LENGTH)]
    source[2] = "source.domain=ann"
    words = [*ENCODER, *source, *TARGET, *LENGTH, *QUICK, "pretrain.max_epochs=2", "adaptation=fixmatch"]
    assert run(*words)["status"] == "done"


def test_weights_of_a_run_are_taken_by_another(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in WORDS if not word.startswith("backbone.weights")]
    assert run(*words, f"backbone.weights={trained}")["weights"]
    assert main([*words, f"backbone.weights={trained}", "target.seconds=0.5"]) == 1
    assert "seconds=0.5: the network's other sounds have seconds=0.25" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["target.sample_rate=8000"], "sample_rate=8000: the backbone hears sounds of 4000 Hz; give sample_rate=4000"),
        (["target.seconds=0.02"], "80 samples at 4000 Hz are too few for the encoder, which needs 85"),
        (["target.rendering.range_db=60"], "range_db=60: it is of spectrograms"),
        (["backbone.path=songs"], "holds no config.json and no preprocessor_config.json"),
        (["backbone=hugging_face"], "wav2vec2 takes waveforms, and backbone=hugging_face takes texts"),
        (["adapter=visual_prompt"], "adapter=visual_prompt: it changes images, and backbone=speech takes audio"),
        (["after=tta"], "it averages crops and mirror images, which texts and sounds have not"),
    ],
)
def test_what_makes_no_sense_says_so(
    workplace: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, *words]) != 0
    assert message in capsys.readouterr().err


def test_images_and_encoders_of_sounds_do_not_meet(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["target=digits", *ENCODER, *QUICK]) != 0
    assert "digits holds images, and the backbone takes sounds" in capsys.readouterr().err
