"""Any encoder of raw waveforms of Hugging Face as a backbone."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from graft.data.waveform_preprocessing import WaveformPreprocessing
from graft.errors import UserError
from graft.models.backbones.base import NoOverrides
from graft.models.backbones.encoder_files import EncoderFiles, Kind, find_encoder
from graft.models.backbones.hugging_face_encoder import HuggingFaceEncoder

WAVEFORMS = Kind(
    backbone="hugging_face_audio", samples="waveforms", file="preprocessor_config.json", example="wav2vec2"
)
EXTRACTOR = "Wav2Vec2FeatureExtractor"
READ = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio")
BLOCKS = "encoder.layers."
AFTER_BLOCKS = "encoder.layer_norm."  # before them, unless the encoder's norms are "stable"
MASK = "masked_spec_embed"  # what takes the place of masked hidden states
HEADS = (  # of pretraining, recognition, classification, speaker verification; what is switched off below
    *("quantizer.", "project_q.", "project_hid.", "final_proj.", "label_embeddings_concat", "speaker_proj."),
    *("ctc_proj.", "lm_head.", "projector.", "classifier.", "layer_weights", "tdnn.", "objective."),
    *("feature_extractor.weight", "feature_extractor.bias", MASK, "adapter."),
)


class HuggingFaceAudioBackbone(HuggingFaceEncoder):
    """An encoder of raw waveforms of the `transformers` library without its head, such as wav2vec 2.0.

    Needs the extra `text`. It is described by a folder with `config.json` and `preprocessor_config.json`, or on the hub
    by a name and a pinned revision. The latter file says at what rate it hears sounds and whether each is brought to
    mean 0 and variance 1. `backbone.weights=DEFAULT` takes its `model.safetensors`; weights in other formats are not
    read, and no code of a model's own is run.

    Layer groups are `stem` (convolutions over the waveform), `embeddings` (the projection of what they give, and places
    by a convolution), then `layer0`, `layer1`, ... Features are the mean over time of the last hidden states.

    All sounds of a run are of one length, `seconds` of their domain, with silence around shorter ones: the encoder
    hears it as part of the recording, and it counts in the mean. It is not masked, because how long a sound was is not
    kept, and encoders with a group norm were trained without a mask. `seconds` near the usual length keep it short.

    Adapters that come with an encoder are left out. Its own SpecAugment and layer drop are switched off: the first
    draws from numpy's global generator, the second leaves out blocks at random; augmentation is the domain's.

    Args:
        path: a folder, or the name of a repository on the hub.
        revision: of the repository, a commit's 40 hex digits, so that it cannot change.
        download: whether the hub may be asked; otherwise what is not here is an error.

    Raises:
        UserError: a package is not installed, there is no such folder, none of the files in it that are needed, or an
            encoder of anything but raw waveforms.
    """

    def __init__(self, path: str, revision: str | None = None, download: bool = False) -> None:
        found = find_encoder(path, revision, download, WAVEFORMS)
        preprocessing = waveform_preprocessing(found)
        without_randomness(found.config)
        super().__init__(found, preprocessing, NoOverrides(), HEADS)
        self._num_blocks: int = found.config.num_hidden_layers
        self._norm_is_last = type(self.model.encoder).__name__.endswith("StableLayerNorm")
        if hasattr(self.model, MASK):  # of UniSpeech-SAT, masked or not
            delattr(self.model, MASK)

    @property
    def group_names(self) -> list[str]:
        """In order; a norm after the last block goes with it."""
        return ["stem", "embeddings", *(f"layer{number}" for number in range(self._num_blocks))]

    def group_of(self, name: str) -> str:
        """The group of a parameter or buffer of the encoder."""
        if name.startswith(BLOCKS):
            return f"layer{name.removeprefix(BLOCKS).partition('.')[0]}"
        if self._norm_is_last and name.startswith(AFTER_BLOCKS):
            return f"layer{self._num_blocks - 1}"
        return "stem" if name.startswith("feature_extractor.") else "embeddings"

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, d] of waveforms [n, samples]."""
        hidden: Tensor = self.model(input_values=x).last_hidden_state
        return hidden.mean(dim=1)


def waveform_preprocessing(found: EncoderFiles) -> WaveformPreprocessing:
    """What an encoder's sounds go through.

    Raises:
        UserError: its files do not say, or say that it takes something else.
    """
    if found.config.model_type not in READ:
        raise UserError(
            f"backbone.path={found.folder}: {found.config.model_type} is no encoder that this backbone reads; expected "
            f"one of {', '.join(READ)}"
        )
    settings = read_settings(found.folder / WAVEFORMS.file)
    extractor = settings.get("feature_extractor_type", EXTRACTOR)
    if extractor != EXTRACTOR:
        raise UserError(
            f"backbone.path={found.folder}: {WAVEFORMS.file} is of {extractor}; expected {EXTRACTOR}, which gives the "
            "waveform itself"
        )
    # What is not said is what transformers takes for it.
    return WaveformPreprocessing(
        rate=settings.get("sampling_rate", 16000),
        normalised=settings.get("do_normalize", True),
        shortest=receptive_field(found.config.conv_kernel, found.config.conv_stride),
    )


def read_settings(path: Path) -> dict[str, Any]:
    """What a preprocessor_config.json says.

    Raises:
        UserError: it is damaged.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({error})") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: expected an object of settings")
    types = {"sampling_rate": int, "do_normalize": bool}
    wrong = [name for name, kind in types.items() if not isinstance(settings.get(name, kind()), kind)]
    if wrong:
        raise UserError(f"{path}: {wrong[0]}={settings[wrong[0]]!r}; expected {types[wrong[0]].__name__}")
    return settings


def receptive_field(kernels: list[int], strides: list[int]) -> int:
    """Samples that go into one output of convolutions after each other."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def without_randomness(config: Any) -> None:
    """Switch off what is random in training but dropout, and the adapter, whose outputs are shorter and wider."""
    config.mask_time_prob = config.mask_feature_prob = config.layerdrop = 0.0
    config.apply_spec_augment = config.add_adapter = False
