import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sounds import SMALL, tone, write_sound_encoder, write_wav
from texts import write_encoder
from transformers import (
    ASTConfig,
    AutoConfig,
    AutoModel,
    DacConfig,
    PretrainedConfig,
    ViTConfig,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2ForXVector,
    WhisperConfig,
)

from graft.data.sound_preprocessing import SoundRendering
from graft.data.sound_view import SoundView
from graft.data.waveform_preprocessing import WaveformPreprocessing
from graft.data.waveforms import decode_sound
from graft.errors import UserError
from graft.models.backbones.hugging_face_audio import READ, HuggingFaceAudioBackbone, receptive_field
from graft.models.weights import load_weights, read_weights

RATE = 16000
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}


def write_sounds(folder: Path, num: int = 3) -> list[Path]:
    rng = np.random.default_rng(0)
    sounds = [tone(200.0 * (i + 1), RATE, 0.5) // (i + 1) for i in range(num)]
    return [
        write_wav(folder / f"{i}.wav", (sound + rng.normal(0, 200, len(sound))).astype(np.int16), RATE)
        for i, sound in enumerate(sounds)
    ]


def loaded(folder: Path) -> HuggingFaceAudioBackbone:
    backbone = HuggingFaceAudioBackbone(str(folder))
    load_weights(backbone, read_weights("DEFAULT", backbone).state)
    return backbone.eval()


@pytest.mark.parametrize(("settings", "normalise"), [({}, True), (LAYER, True), (LAYER, False)])
@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm", "unispeech-sat", "data2vec-audio"])
def test_features_are_those_of_the_library(
    kind: str, settings: dict[str, Any], normalise: bool, tmp_path: Path
) -> None:
    folder = write_sound_encoder(tmp_path / "encoder", kind, RATE, normalise, **settings)
    files = write_sounds(tmp_path)
    backbone = loaded(folder)
    wanted = SoundRendering(RATE, 0.5).for_backbone(backbone.preprocessing)
    assert isinstance(wanted, WaveformPreprocessing)
    stored = torch.from_numpy(np.stack([np.asarray(decode_sound(file, wanted.sampling)) for file in files]))
    with torch.no_grad():
        found = backbone(SoundView(wanted, None, 2).evaluate(stored))

    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    heard = []
    for file in files:
        with wave.open(str(file)) as opened:
            samples = np.frombuffer(opened.readframes(opened.getnframes()), "<i2")
        heard.append(samples.astype(np.float32) / 32768)
    with torch.no_grad():
        inputs = extractor(heard, sampling_rate=RATE, return_tensors="pt").input_values
        expected = model(inputs).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", READ)
def test_training_depends_on_the_given_seed_alone(kind: str, tmp_path: Path) -> None:
    random = {"mask_time_prob": 0.5, "mask_time_length": 2, "mask_feature_prob": 0.5, "layerdrop": 0.9}
    backbone = loaded(write_sound_encoder(tmp_path, kind, **random)).train()
    called: list[int] = []
    for number, block in enumerate(backbone.model.encoder.layers):
        block.register_forward_hook(lambda *_, number=number: called.append(number))
    x = torch.randn(2, 8000)
    found = []
    for seed_of_numpy in (0, 1):
        np.random.seed(seed_of_numpy)  # noqa: NPY002 - the library draws its masks from the global generator
        torch.manual_seed(0)
        found.append(backbone(x))
    assert torch.equal(*found)
    assert called == [0, 1, 0, 1], "no block is left out"
    assert not any("mask" in name for name in backbone.state_dict())


@pytest.mark.parametrize(
    "whole", [Wav2Vec2ForPreTraining, Wav2Vec2ForCTC, Wav2Vec2ForSequenceClassification, Wav2Vec2ForXVector]
)
def test_weights_of_models_with_heads_are_taken(whole: type, tmp_path: Path) -> None:
    sizes = {"codevector_dim": 8, "proj_codevector_dim": 8, "num_codevectors_per_group": 4, "tdnn_dim": (8, 8, 8)}
    config = AutoConfig.for_model("wav2vec2", **{**SMALL, **sizes}, tdnn_kernel=(3, 1, 1), tdnn_dilation=(1, 1, 1))
    folder = write_sound_encoder(tmp_path)
    torch.manual_seed(1)
    model = whole(config)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    backbone = HuggingFaceAudioBackbone(str(folder))
    report = load_weights(backbone, read_weights("DEFAULT", backbone).state)
    assert set(report.loaded) == set(backbone.state_dict())
    for name, value in model.wav2vec2.state_dict().items():
        if name != "masked_spec_embed":
            assert torch.equal(value, backbone.state_dict()[f"model.{name}"])


def test_normalised_weights_under_their_earlier_names_are_taken(tmp_path: Path) -> None:
    folder = write_sound_encoder(tmp_path)
    expected = loaded(folder).state_dict()
    older = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = load_file(folder / "model.safetensors")
    for name in [name for name in state if "parametrizations" in name]:
        stem, _, now = name.partition("conv.parametrizations")
        state[f"{stem}conv.{older[f'parametrizations{now}']}"] = state.pop(name)
    assert any(name.endswith("weight_g") for name in state)
    save_file(state, folder / "model.safetensors")
    found = loaded(folder).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ASTConfig(), "audio-spectrogram-transformer takes spectrograms, .* choose backbone=cnn"),
        (WhisperConfig(), "whisper takes spectrograms, .* choose backbone=cnn"),
        (ViTConfig(), "vit takes images, .* choose backbone=cnn"),
        (DacConfig(), "dac is no encoder that this backbone reads; expected one of wav2vec2, hubert"),
    ],
    ids=["ast", "whisper", "vit", "dac"],
)
def test_encoders_of_other_inputs_are_refused(config: PretrainedConfig, message: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        HuggingFaceAudioBackbone(str(tmp_path))


def test_encoders_of_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bert takes texts, .* choose backbone=hugging_face$"):
        HuggingFaceAudioBackbone(str(write_encoder(tmp_path)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"holds no preprocessor_config\.json"),
        ("{", "is damaged"),
        ("[]", "expected an object"),
        ('{"sampling_rate": "fast"}', "sampling_rate='fast'; expected int"),
        ('{"do_normalize": 1}', "do_normalize=1; expected bool"),
        ('{"feature_extractor_type": "SeamlessM4TFeatureExtractor"}', "is of SeamlessM4TFeatureExtractor"),
        ('{"sampling_rate": 1}', "sample_rate=1: expected"),
    ],
)
def test_settings_that_cannot_be_used(content: str | None, message: str, tmp_path: Path) -> None:
    file = write_sound_encoder(tmp_path) / "preprocessor_config.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        HuggingFaceAudioBackbone(str(tmp_path))


def test_what_settings_leave_out_is_as_the_library_takes_it(tmp_path: Path) -> None:
    file = write_sound_encoder(tmp_path, rate=8000, normalise=False) / "preprocessor_config.json"
    assert HuggingFaceAudioBackbone(str(tmp_path)).preprocessing == WaveformPreprocessing(8000, False, 85)
    file.write_text(json.dumps({"feature_size": 1}))
    assert HuggingFaceAudioBackbone(str(tmp_path)).preprocessing == WaveformPreprocessing(16000, True, 85)
    library = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    assert (library.sampling_rate, library.do_normalize) == (16000, True)


def test_the_shortest_sound_gives_one_hidden_state(tmp_path: Path) -> None:
    backbone = loaded(write_sound_encoder(tmp_path))
    assert isinstance(backbone.preprocessing, WaveformPreprocessing)
    shortest = backbone.preprocessing.shortest
    assert shortest == 85
    convolutions = backbone.model.feature_extractor
    assert convolutions(torch.zeros(1, shortest)).shape[-1] == 1
    with pytest.raises(RuntimeError):
        convolutions(torch.zeros(1, shortest - 1))
    assert receptive_field([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]) == 400  # of wav2vec 2.0


def test_weights_in_other_formats_are_not_read(tmp_path: Path) -> None:
    folder = write_sound_encoder(tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    backbone = HuggingFaceAudioBackbone(str(folder))
    assert backbone.published_weights() == ()
    with pytest.raises(UserError, match=r"backbone\.weights=DEFAULT: neither a file"):
        read_weights("DEFAULT", backbone)


def test_nothing_is_asked_of_the_hub_unless_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder; from the hub, give backbone\.revision"):
        HuggingFaceAudioBackbone("facebook/wav2vec2-base")
    with pytest.raises(UserError, match=r"is not here .*; backbone\.download=true asks the hub"):
        HuggingFaceAudioBackbone("facebook/wav2vec2-base", revision="0" * 40)
