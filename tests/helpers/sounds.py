"""Small sounds for tests."""

import wave
from pathlib import Path
from typing import Any

import numpy as np


def tone(frequency: float, rate: int, seconds: float, loudness: float = 0.5) -> np.ndarray:
    """A sine as int16 [samples]."""
    times = np.arange(round(rate * seconds)) / rate
    sine: np.ndarray = np.rint(loudness * 32767 * np.sin(2 * np.pi * frequency * times))
    return sine.astype(np.int16)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    """Samples int16 [samples] or [samples, channels] as a WAV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((samples.shape[1] if samples.ndim > 1 else 1, 2, rate, len(samples), "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 4, 4),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def write_sound_encoder(
    folder: Path, kind: str = "wav2vec2", rate: int = 16000, normalise: bool = True, **settings: Any
) -> Path:
    """An encoder of waveforms of two blocks with random weights, as the transformers library writes it."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

    config = AutoConfig.for_model(kind, **{**SMALL, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    config.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=rate, do_normalize=normalise).save_pretrained(folder)
    return folder
