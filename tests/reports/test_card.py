"""The model card says what the record says."""

from typing import Any

from records_by_hand import done, with_transferred

from graft.reports.card import MARK, description, model_card

PREPROCESSING = {"size": 224, "mean": (0.5,) * 3, "std": (0.25,) * 3, "resize": 256, "interpolation": "bilinear"}


def two_classes() -> dict[str, Any]:
    record = with_transferred(done(0.9))
    counts = [[60, 40], [10, 90]]
    return record | {"classes": {"names": ["ant", "be|e"], "accuracy": [0.45, 0.9], "confusion": counts}}


def card(temperature: float | None = None, **changes: Any) -> str:
    record = two_classes()
    described = description(record | changes, PREPROCESSING, temperature, "onnx", "model.onnx")
    return model_card(record | changes, described)


def test_figures_data_and_use() -> None:
    text = card()
    for line in (
        "# cnn for digits",
        MARK,
        "- Data: digits, 100 labelled training samples.",
        "- Starting weights: pretrained on glyphs.",
        "- Accuracy: 90.0 % on 200 test samples of digits.",
        "- Baseline scratch: 80.0 %, same labels, epochs and head.",
        "- Gain: +10.0 points over scratch.",
        "- Calibration error of the logits as they are: 3.1 %.",
        "- Input: `images`, uint8 [n, 3, 224, 224], any n.",
        "| ant | 100 | 45.0 % |",
        "| be/e | 100 | 90.0 % |",
        "- Below 50.0 % on: ant.",
        "- Unknown: ",
    ):
        assert f"\n{line}" in f"\n{text}", line
    assert "shorter edge resized to 256 (bilinear, antialiased), centre cropped to 256, then to 224;" in text
    assert "Its probabilities are not calibrated" in text
    assert "Transfer hurt" not in text


def test_limits_and_calibration() -> None:
    transfer = {"baseline": "scratch", "gain": -0.05, "negative": True}
    after = {"temperature": {"temperature": 1.5, "metrics": {"target/test/calibration_error": 0.01}}}
    text = card(1.5, transfer=transfer, after=after, adapter={"kind": "lora"})
    assert "- Gain: -5.0 points over scratch." in text
    assert "- Transfer hurt: it is below its scratch baseline." in text
    assert "- Calibration error at the temperature 1.5: 1.0 %." in text
    assert "softmax(logits / temperature), calibrated by the temperature 1.5." in text
    assert "- Adapter: lora." in text
    assert "not calibrated" not in text


SOUND = {
    "modality": "audio",
    "size": 32,
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "rate": 8000,
    "seconds": 0.5,
    "trim_db": None,
    "range_db": 80.0,
}


def test_a_classifier_of_sounds_takes_waveforms_and_says_how_they_are_made() -> None:
    described = description(two_classes(), SOUND, None, "onnx", "model.onnx")
    assert described["input"] == {"name": "waveforms", "type": "int16", "shape": ["n", 4000]}
    assert [step["step"].split()[0] for step in described["before"]] == ["mix", "resample", "keep", "round"]
    assert described["inside"][0]["hop"] == 125
    card = model_card(two_classes(), described)
    assert "A classifier of sounds" in card
    assert "mono, resampled to 8000 Hz, the middle 4000 samples" in card
    assert "image" not in card
    bare = description(two_classes(), SOUND | {"trim_db": 40}, None, "safetensors", "model.safetensors")
    assert bare["input"]["shape"] == ["n", 3, 32, 32]
    assert len(bare["before"]) == 7
