import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from sounds import tone, write_wav

from graft.data.readers.base import RawSplit, Unreadable
from graft.data.sound_preprocessing import SpectrogramPreprocessing
from graft.data.sounds import open_sounds
from graft.data.waveforms import Sampling, decode_sound
from graft.errors import UserError

RATE = 8000
HERE = Sampling(RATE, 0.5)


def decoded(path: Path, sampling: Sampling = HERE) -> np.ndarray:
    found = decode_sound(path, sampling)
    assert isinstance(found, np.ndarray), found
    return found


def reason(path: Path, sampling: Sampling = HERE) -> str:
    found = decode_sound(path, sampling)
    assert isinstance(found, Unreadable)
    assert "\n" not in found.reason
    return found.reason


def test_what_fits_is_left_as_it_is(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 4000).astype(np.int16)
    found = decoded(write_wav(tmp_path / "a.wav", samples, RATE))
    assert found.dtype == np.int16
    assert np.array_equal(found, samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_every_kind_of_sample_gives_the_same_sound(tmp_path: Path, dtype: type) -> None:
    values = np.random.default_rng(1).integers(-128, 128, 4000) / 128
    stored = {"u": values * 128 + 128, "i": values * 2**31, "f": values}[np.dtype(dtype).kind].astype(dtype)
    wavfile.write(tmp_path / "a.wav", RATE, stored)
    assert np.array_equal(decoded(tmp_path / "a.wav"), np.clip(values * 2**15, -(2**15), 2**15 - 1))


def test_24_bits(tmp_path: Path) -> None:
    samples = np.random.default_rng(2).integers(-(2**15), 2**15, 4000)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 3, RATE, len(samples), "NONE", ""))
        file.writeframes(b"".join((int(sample) << 8).to_bytes(3, "little", signed=True) for sample in samples))
    assert np.array_equal(decoded(tmp_path / "a.wav"), samples)


def test_channels_are_mixed(tmp_path: Path) -> None:
    left, right = np.full(4000, 1000, np.int16), np.full(4000, 3000, np.int16)
    assert set(decoded(write_wav(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE))) == {2000}


@pytest.mark.parametrize("rate", [4000, 11025, 16000, 44100])
def test_resampling_keeps_pitch_and_loudness(tmp_path: Path, rate: int) -> None:
    found = decoded(write_wav(tmp_path / "a.wav", tone(440, rate, 0.5), rate))
    spectrum = np.abs(np.fft.rfft(found[1000:3000] * np.hanning(2000)))
    assert spectrum.argmax() * RATE / 2000 == pytest.approx(440, abs=4)
    assert found[1000:3000].std() == pytest.approx(tone(440, RATE, 0.5).std(), rel=0.02)


def test_what_is_above_half_the_new_rate_is_filtered_out(tmp_path: Path) -> None:
    assert np.abs(decoded(write_wav(tmp_path / "a.wav", tone(6000, 44100, 0.5), 44100))[500:-500]).max() < 200


@pytest.mark.parametrize(("num", "begins"), [(4000, 0), (4006, 3), (3000, -500), (1, -1999)])
def test_longer_sounds_keep_their_middle_and_shorter_ones_get_silence(tmp_path: Path, num: int, begins: int) -> None:
    samples = np.arange(1, num + 1).astype(np.int16)
    found = decoded(write_wav(tmp_path / "a.wav", samples, RATE))
    assert len(found) == 4000
    expected = np.zeros(4000, np.int16)
    if begins >= 0:
        expected[:] = samples[begins : begins + 4000]
    else:
        expected[-begins : num - begins] = samples
    assert np.array_equal(found, expected)


def test_silence_is_cut_off(tmp_path: Path) -> None:
    samples = np.concatenate([np.zeros(3200), tone(440, RATE, 0.1), np.zeros(8000)]).astype(np.int16)
    path = write_wav(tmp_path / "a.wav", samples, RATE)
    assert not np.abs(decoded(path)).any(), "its middle is silent"
    sound = decoded(path, Sampling(RATE, 0.5, trim_db=40))
    assert np.array_equal(sound[1600:2400], samples[3200:4000])
    silent = write_wav(tmp_path / "silent.wav", np.zeros(100, np.int16), RATE)
    assert not decoded(silent, Sampling(RATE, 0.5, trim_db=40)).any()


def header(claimed: int, rate: int = RATE, channels: int = 1, kind: int = 1, bits: int = 16) -> bytes:
    form = struct.pack("<HHIIHH", kind, channels, rate, 0, 2, bits)
    return b"RIFF" + struct.pack("<I", claimed) + b"WAVEfmt " + struct.pack("<I", 16) + form + b"data"


def of(content: bytes, claimed: int, **form: int) -> bytes:
    return header(36 + len(content), **form) + struct.pack("<I", claimed) + content


BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"no sound at all", "not a WAV file"),
    "cut header": (of(bytes(8), 8)[:38], "truncated: no data"),
    "cut data": (of(bytes(100), 400), "truncated: 50 of 200 samples"),
    "no samples": (of(b"", 0), "holds no samples"),
    "4 GiB": (of(bytes(100), 0xFFFFFFFE), "claims 268435 seconds"),
    "no rate": (of(bytes(100), 100, rate=0), "a sample rate of 0 Hz"),
    "absurd rate": (of(bytes(100), 100, rate=4_000_000_000), "a sample rate of 4000000000 Hz"),
    "no channels": (of(bytes(100), 100, channels=0), "0 channels"),
    "many channels": (of(bytes(100), 100, channels=65535), "65535 channels"),
    "compressed": (of(bytes(100), 100, kind=85), "compressed (format 85)"),
    "12 bits": (of(bytes(100), 100, bits=12), "samples of 12 bits, PCM"),
    "not a number": (of(np.array([0, np.nan], "<f4").tobytes(), 8, kind=3, bits=32), "not numbers"),
    "signalling": (of(bytes.fromhex("00000000010080ff"), 8, kind=3, bits=32), "not numbers"),
    "infinite": (of(np.array([0, np.inf], "<f4").tobytes(), 8, kind=3, bits=32), "not numbers"),
    "integers as floats": (of(np.array([0, 12345], "<f4").tobytes(), 8, kind=3, bits=32), "1.23e+04; expected floats"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_with_the_reason(tmp_path: Path, name: str) -> None:
    content, expected = BROKEN[name]
    (tmp_path / "a.wav").write_bytes(content)
    assert expected in reason(tmp_path / "a.wav")


def test_a_missing_file(tmp_path: Path) -> None:
    assert reason(tmp_path / "a.wav") == "No such file or directory"


def test_other_chunks_are_passed_over(tmp_path: Path) -> None:
    plain = write_wav(tmp_path / "a.wav", tone(440, RATE, 0.5), RATE).read_bytes()
    noted = plain[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + plain[12:] + b"note"
    (tmp_path / "b.wav").write_bytes(noted)
    assert np.array_equal(decoded(tmp_path / "a.wav"), decoded(tmp_path / "b.wav"))


@pytest.mark.parametrize("suffix", ["flac", "ogg"])
def test_flac_and_ogg(tmp_path: Path, suffix: str) -> None:
    soundfile = pytest.importorskip("soundfile")
    samples = tone(440, RATE, 0.5)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, RATE)
    error = np.abs(decoded(path).astype(float) - samples).max()
    assert error == 0 if suffix == "flac" else error < 1000
    path.write_bytes(path.read_bytes()[:-200] if suffix == "flac" else b"OggS" + bytes(100))
    assert reason(path)


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.data.waveforms.find_spec", lambda name: None)
    (tmp_path / "a.flac").touch()
    assert "pip install 'graft[audio]'" in reason(tmp_path / "a.flac")


@pytest.mark.parametrize("keep", [True, False])
def test_those_that_cannot_be_read_are_left_out(tmp_path: Path, keep: bool) -> None:
    paths = [write_wav(tmp_path / f"{i}.wav", np.full(4000, i, np.int16), RATE) for i in range(5)]
    paths[2].write_bytes(b"")
    how = SpectrogramPreprocessing(32, (0.5,), (0.5,), RATE, 0.5)
    sounds, broken = open_sounds(RawSplit(paths, np.arange(5)), how, keep)
    assert len(sounds) == 4
    assert sounds.made_anew is not keep
    found = sounds.canvases(torch.tensor([3, 0, 2]))
    assert found.dtype == torch.int16
    assert found.shape == (3, 4000)
    assert found[:, 0].tolist() == [4, 0, 3]
    assert [found.path for found in broken] == [paths[2]]


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", np.zeros(4000, np.int16), RATE)
    sounds, _ = open_sounds(
        RawSplit([path], np.zeros(1)), SpectrogramPreprocessing(32, (0.5,), (0.5,), RATE, 0.5), keep=False
    )
    path.unlink()
    with pytest.raises(UserError, match=r"a\.wav \(No such file"):
        sounds.canvases(torch.tensor([0]))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((0, 1.0), "sample_rate=0"),
        ((RATE, 0.0), "seconds=0.0"),
        ((RATE, 1e9), "seconds"),
        ((RATE, 1.0, -3), "trim_db=-3"),
    ],
)
def test_values_that_cannot_be(values: tuple[float, ...], name: str) -> None:
    with pytest.raises(UserError, match=name):
        Sampling(*values)  # type: ignore[arg-type]
