"""Small sounds for tests."""

import wave
from pathlib import Path

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
