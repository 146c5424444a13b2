"""WAV files (RIFF): PCM of 8, 16, 24 and 32 bits and floats of 32 and 64, read without trusting their headers."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

LONGEST_FILE = 600  # seconds
MOST_VALUES = 2**26  # samples of all channels, which take eight bytes each
MOST_CHANNELS = 64
LOWEST_RATE, HIGHEST_RATE = 1000, 384_000  # Hz
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


class NotASoundError(ValueError):
    """What is in a file cannot be used; the message says why."""


@dataclass(frozen=True)
class WavFormat:
    """What the `fmt ` chunk says."""

    kind: int  # PCM or FLOAT
    channels: int
    rate: int  # Hz
    bits: int  # of one sample

    def __post_init__(self) -> None:
        if (self.kind, self.bits) not in {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}:
            names = {PCM: "PCM", FLOAT: "float"}
            raise NotASoundError(
                f"samples of {self.bits} bits, {names.get(self.kind, f'compressed (format {self.kind})')}; expected "
                "PCM of 8, 16, 24 or 32 bits, or floats of 32 or 64"
            )

    @property
    def frame_size(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * self.bits // 8


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """A file's samples float64 [samples, channels], integers scaled to -1..1, and its rate in Hz.

    No more is read than the file holds, whatever its header claims.

    Raises:
        NotASoundError: it is not a WAV file, is damaged or cut off, or is too long.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if not head:
            raise NotASoundError("empty")
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            raise NotASoundError("not a WAV file")
        form, length = _find_data(file, size)
        check_size(length // form.frame_size, form.channels, form.rate)
        if length > size - file.tell():
            there = (size - file.tell()) // form.frame_size
            raise NotASoundError(f"truncated: {there} of {length // form.frame_size} samples are there")
        content = file.read(length - length % form.frame_size)
    return _scaled(content, form).reshape(-1, form.channels), form.rate


def check_size(frames: int, channels: int, rate: int) -> None:
    """Refuse what would fill the memory, or is nothing.

    Raises:
        NotASoundError: no samples or too many, no channels or too many, or no rate that sound is kept at.
    """
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise NotASoundError(f"a sample rate of {rate} Hz; expected {LOWEST_RATE} to {HIGHEST_RATE}")
    if not 1 <= channels <= MOST_CHANNELS:
        raise NotASoundError(f"{channels} channels; expected 1 to {MOST_CHANNELS}")
    if frames < 1:
        raise NotASoundError("holds no samples")
    if frames / rate > LONGEST_FILE or frames * channels > MOST_VALUES:
        raise NotASoundError(
            f"claims {frames / rate:.0f} seconds of {channels} channels; at most {LONGEST_FILE} seconds and "
            f"{MOST_VALUES} values are read"
        )


def _find_data(file: BinaryIO, size: int) -> tuple[WavFormat, int]:
    """The format, and how many bytes the data chunk claims to have, at whose beginning the file then stands."""
    form = None
    while len(head := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        if name == b"data":
            if form is None:
                raise NotASoundError("damaged: no format before the data")
            return form, length
        end = file.tell() + length + length % 2
        if name == b"fmt ":
            form = _format(file.read(min(length, 40)))
        if end > size:
            break
        file.seek(end)
    raise NotASoundError("truncated: no data")


def _format(content: bytes) -> WavFormat:
    if len(content) < 16:
        raise NotASoundError("damaged: its format is cut off")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if kind == EXTENSIBLE and len(content) >= 26:
        [kind] = struct.unpack("<H", content[24:26])
    form = WavFormat(kind, channels, rate, bits)
    check_size(1, channels, rate)
    return form


def _scaled(content: bytes, form: WavFormat) -> np.ndarray:
    """Samples float64 [n], channels side by side."""
    if form.kind == FLOAT:
        with np.errstate(invalid="ignore"):  # what is not a number is refused later
            return np.frombuffer(content, f"<f{form.bits // 8}").astype(np.float64)
    if form.bits == 8:
        return (np.frombuffer(content, np.uint8).astype(np.float64) - 128) / 128
    if form.bits == 24:  # to the upper three of four bytes
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        return wide.reshape(-1).view("<i4").astype(np.float64) / 2**31
    return np.frombuffer(content, f"<i{form.bits // 8}").astype(np.float64) / 2 ** (form.bits - 1)
