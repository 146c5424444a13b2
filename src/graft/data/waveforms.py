"""Sound files as waveforms of one rate and length."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import gcd
from pathlib import Path

import numpy as np

from graft.data.readers.base import Unreadable
from graft.data.threaded import map_all, num_cores
from graft.data.wav import HIGHEST_RATE, LOWEST_RATE, NotASoundError, check_size, read_wav
from graft.errors import UserError

SUFFIXES = (".wav", ".flac", ".ogg")
LONGEST = 60  # seconds that a network may be made to listen to
FRAME = 0.02  # seconds over which loudness is measured, for trimming
FULL_SCALE = 2**15
UNREADABLE = (OSError, ValueError, EOFError, MemoryError, struct.error, RuntimeError)  # the last from libsndfile


@dataclass(frozen=True)
class Sampling:
    """To what every sound is brought: mono, so many samples a second, so many seconds.

    Longer sounds keep their middle; shorter ones are given silence on both sides alike.

    Raises:
        UserError: a rate, a length or a threshold that cannot be.
    """

    rate: int  # Hz
    seconds: float
    trim_db: float | None = (
        None  # silence at both ends, so far below the loudest 20 ms, is cut off first; None: nothing
    )

    def __post_init__(self) -> None:
        if not LOWEST_RATE <= self.rate <= HIGHEST_RATE:
            raise UserError(f"sample_rate={self.rate}: expected {LOWEST_RATE} to {HIGHEST_RATE} Hz")
        if not 0 < self.seconds <= LONGEST or self.samples < 1:
            raise UserError(f"seconds={self.seconds}: expected a length above 0 and at most {LONGEST}")
        if self.trim_db is not None and not self.trim_db > 0:
            raise UserError(f"trim_db={self.trim_db}: expected a number of decibels above 0, or null")

    @property
    def samples(self) -> int:
        """In a sound."""
        return round(self.rate * self.seconds)


def decode_sound(path: Path, sampling: Sampling) -> np.ndarray | Unreadable:
    """One sound file as int16 [samples]."""
    try:
        waveform, rate = read_sound(path)
        sound = cut_and_pad(trimmed(resampled(waveform, rate, sampling.rate), sampling), sampling.samples)
    except NotASoundError as error:
        return Unreadable(path, str(error))
    except UNREADABLE as error:
        return Unreadable(path, getattr(error, "strerror", None) or str(error) or type(error).__name__)
    return np.clip(np.rint(sound * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def decode_sounds(paths: Sequence[Path], sampling: Sampling) -> list[np.ndarray | Unreadable]:
    """Sound files, each as int16 [samples]."""
    return map_all(lambda path: decode_sound(path, sampling), paths, num_cores())


def unreadable_sounds(paths: Sequence[Path], sampling: Sampling) -> list[Unreadable]:
    """Those of the files that cannot be decoded; no waveform is kept."""

    def check(path: Path) -> Unreadable | None:
        found = decode_sound(path, sampling)
        return found if isinstance(found, Unreadable) else None

    return [found for found in map_all(check, paths, num_cores()) if found is not None]


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """A file's waveform, mixed to mono and of values from -1 to 1, float64 [samples], and its rate in Hz.

    Raises:
        NotASoundError: what is in the file cannot be used; `UNREADABLE` where it cannot be opened.
    """
    channels, rate = read_wav(path) if path.suffix.lower() == ".wav" else _read_by_libsndfile(path)
    if not np.isfinite(channels).all():
        raise NotASoundError("holds values that are not numbers")
    if np.abs(channels).max() > 8:
        raise NotASoundError(f"holds values up to {np.abs(channels).max():.3g}; expected floats from -1 to 1")
    return channels.mean(axis=1), rate


def _read_by_libsndfile(path: Path) -> tuple[np.ndarray, int]:
    """float64 [samples, channels] and the rate of a FLAC or Ogg file."""
    if find_spec("soundfile") is None:
        raise NotASoundError(f"{path.suffix} files need the package soundfile: pip install 'graft[audio]'")
    import soundfile

    with soundfile.SoundFile(path) as file:
        check_size(file.frames, file.channels, file.samplerate)
        waveform = file.read(file.frames, dtype="float64", always_2d=True)
        if len(waveform) < file.frames:
            raise NotASoundError(f"truncated: {len(waveform)} of {file.frames} samples are there")
    return waveform, file.samplerate


def resampled(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """A waveform [samples] at another rate, by a polyphase filter (`scipy.signal.resample_poly`)."""
    if rate == new_rate:
        return waveform
    from scipy.signal import resample_poly

    common = gcd(rate, new_rate)
    result: np.ndarray = resample_poly(waveform, new_rate // common, rate // common)
    return result


def trimmed(waveform: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The waveform from the first to the last stretch of `FRAME` seconds that is not silent."""
    if sampling.trim_db is None:
        return waveform
    width = max(1, round(FRAME * sampling.rate))
    starts = np.arange(0, len(waveform), width)
    power = np.add.reduceat(waveform**2, starts) / np.diff(starts, append=len(waveform))
    loud = np.flatnonzero(power > power.max() * 10 ** (-sampling.trim_db / 10))
    return waveform[loud[0] * width : (loud[-1] + 1) * width] if len(loud) else waveform


def cut_and_pad(waveform: np.ndarray, samples: int) -> np.ndarray:
    """The middle `samples` of a waveform, or the whole of it with zeros on both sides."""
    missing = samples - len(waveform)
    if missing <= 0:
        return waveform[-missing // 2 :][:samples]
    return np.pad(waveform, (missing // 2, missing - missing // 2))
