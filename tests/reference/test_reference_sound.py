"""Log-mel spectrograms against the formula, sum by sum in float64.

Compared once with torchaudio 2.11, which is no dependency: its `melscale_fbanks` (HTK, no norm) differed from
`MelBands.filters` by 3e-5 at most, and its `MelSpectrogram`, given the same zeros around the sound and the same
decibels, from `LogMel` by 5e-6.
"""

import numpy as np
import pytest
import torch
from scipy.signal import get_window

from graft.data.log_mel import LogMel, MelBands

CASES = [(8000, 8000, 32), (8000, 4000, 24), (16000, 16001, 40), (22050, 11025, 64), (8000, 8000, 96)]


def hertz(mel: float) -> float:
    """HTK: m = 2595 log10(1 + f / 700)."""
    return 700 * (10 ** (mel / 2595) - 1)


def expected_power(sound: np.ndarray, rate: int, size: int, fft: int) -> np.ndarray:
    """Mel power [size bands, size frames] of a sound [samples] of values from -1 to 1."""
    hop = int(np.ceil(len(sound) / size))
    length = max(round(0.025 * rate), 2 * hop)
    taper = get_window("hann", length, fftbins=True)
    before = ((size - 1) * hop + length - len(sound)) // 2
    corners = [hertz(2595 * np.log10(1 + rate / 2 / 700) * i / (size + 1)) for i in range(size + 2)]
    power = np.zeros((size, size))
    for frame in range(size):
        spectrum = np.zeros(fft // 2 + 1, complex)
        for position in range(length):
            sample = frame * hop + position - before
            if 0 <= sample < len(sound):
                turns = np.arange(fft // 2 + 1) * position / fft
                spectrum += taper[position] * sound[sample] * np.exp(-2j * np.pi * turns)
        for band in range(size):
            left, peak, right = corners[band : band + 3]
            for point in range(fft // 2 + 1):
                frequency = point * rate / fft
                if left < frequency < right:
                    rising, falling = (frequency - left) / (peak - left), (right - frequency) / (right - peak)
                    power[band, frame] += min(rising, falling) * abs(spectrum[point]) ** 2
    return power


@pytest.mark.parametrize(("rate", "samples", "size"), [(8000, 1000, 12), (8000, 997, 16), (11025, 1500, 20)])
def test_log_mel_is_its_formula(rate: int, samples: int, size: int) -> None:
    waveform = np.random.default_rng(size).integers(-20000, 20000, samples).astype(np.int16)
    bands = MelBands(rate, samples, size)
    power = expected_power(waveform / 2**15, rate, size, bands.fft)
    decibels = 10 * np.log10(np.maximum(power, 1e-10))
    expected = np.maximum(1 + (decibels - decibels.max()) / 80, 0)
    [found] = LogMel(bands, 80.0)(torch.from_numpy(waveform[None]))
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - expected).max() < 1e-5


@pytest.mark.parametrize(("rate", "samples", "size"), CASES)
def test_every_band_hears_something_and_every_frame_is_there(rate: int, samples: int, size: int) -> None:
    bands = MelBands(rate, samples, size)
    assert bands.fft >= bands.window >= 2 * bands.hop
    assert (bands.filters() > 0).sum(0).min() >= 1
    assert bands.filters().max() <= 1
    assert LogMel(bands, 80.0)(torch.zeros(3, samples, dtype=torch.int16)).shape == (3, size, size)


@pytest.mark.parametrize("band", [3, 10, 20, 30])
def test_a_tone_is_loudest_in_its_own_band(band: int) -> None:
    bands = MelBands(8000, 8000, 32)
    sine = 10000 * torch.sin(2 * torch.pi * float(bands.corners()[band + 1]) * torch.arange(8000) / 8000)
    [found] = LogMel(bands, 80.0)(sine.to(torch.int16)[None])
    assert set(found[:, 2:-2].argmax(0).tolist()) == {band}


def test_a_click_is_in_the_frames_around_it() -> None:
    bands = MelBands(8000, 8000, 32)
    click = torch.zeros(1, 8000)
    click[0, 10 * bands.hop + bands.hop // 2] = 30000
    [found] = LogMel(bands, 80.0)(click)
    assert found.amax(0).argmax() == 10
    assert not found[:, :9].any()
    assert not found[:, 12:].any()


def test_loudness_makes_no_difference_and_silence_is_finite() -> None:
    spectrogram = LogMel(MelBands(8000, 8000, 32), 80.0)
    sound = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)) * 1000
    assert torch.allclose(spectrogram(sound), spectrogram(sound * 8), atol=1e-5)
    assert spectrogram(torch.zeros(1, 8000)).isfinite().all()
