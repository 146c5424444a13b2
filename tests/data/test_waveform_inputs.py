import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sounds import tone, write_wav
from torch import Generator
from transformers import Wav2Vec2FeatureExtractor

from graft.data.domain import Domain
from graft.data.log_mel import mel
from graft.data.modalities import read_preprocessing
from graft.data.readers.audio_folder import AudioFolder
from graft.data.sound_augment import SoundAugmentation, without_bands
from graft.data.sound_preprocessing import SoundRendering
from graft.data.sound_view import SoundView
from graft.data.waveform_preprocessing import WaveformPreprocessing
from graft.errors import UserError

RATE = 8000
WANTED = WaveformPreprocessing(RATE, normalised=True, shortest=400)
HOW = WaveformPreprocessing(RATE, normalised=True, shortest=400, seconds=0.5)
PLAIN = WaveformPreprocessing(RATE, normalised=False, shortest=400, seconds=0.5)
EVERYTHING = {"shift": 0.1, "noise": (10, 30), "frequency_masks": 2, "time_masks": 2, "mixup": 0.4}


def sounds(num: int = 4) -> torch.Tensor:
    rng = np.random.default_rng(0)
    rows = [tone(300 * (i + 1), RATE, 0.5) + rng.normal(0, 100, RATE // 2) for i in range(num)]
    return torch.from_numpy(np.stack(rows).astype(np.int16))


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("how", [HOW, PLAIN])
def test_the_fixed_view_is_what_the_library_makes_of_the_samples(how: WaveformPreprocessing) -> None:
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=how.normalised)
    waveforms = list(sounds().numpy().astype(np.float32) / 32768)
    expected = extractor(waveforms, sampling_rate=RATE, return_tensors="pt").input_values
    view = SoundView(how, None, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = view.evaluate(sounds())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found, view.unmixed(sounds(), seeded()))


def test_silence_stays_silent() -> None:
    assert not SoundView(HOW, None, 2).evaluate(torch.zeros(2, RATE // 2, dtype=torch.int16)).any()


def test_stretches_are_silenced() -> None:
    view = SoundView(PLAIN, SoundAugmentation(time_masks=1, time_width=0.25), 2)
    x = sounds().repeat(50, 1)
    found, plain = view.unmixed(x, seeded()), view.evaluate(x)
    mean = plain.mean(1, keepdim=True)
    changed = found != plain
    assert torch.allclose(found[changed], mean.expand_as(found)[changed], atol=1e-7)
    assert changed.sum(1).max() <= 0.25 * x.shape[1] + 1
    assert changed.any(0).float().mean() > 0.9, "anywhere"


def test_a_band_of_frequencies_is_cut_out() -> None:
    x = torch.randn(200, 1000, generator=seeded())
    places = mel(torch.fft.rfftfreq(1000, 1 / RATE)) / mel(torch.tensor(RATE / 2))
    found = torch.fft.rfft(without_bands(x, 1, 0.3, places, seeded(1)))
    kept = torch.isclose(found, torch.fft.rfft(x), rtol=1e-3, atol=1e-3)
    assert torch.allclose(found[~kept].abs(), torch.tensor(0.0), atol=1e-3)
    for row in ~kept:
        cut = row.nonzero().flatten()
        if len(cut):
            assert torch.equal(cut, torch.arange(cut[0], cut[-1] + 1))
            assert places[cut[-1]] - places[cut[0]] <= 0.3
    assert (~kept)[:, 5:-5].any(0).all(), "anywhere"
    assert without_bands(x, 0, 0.3, places, seeded()) is x


def test_plain_values_and_back() -> None:
    for how in (HOW, PLAIN, WaveformPreprocessing(16000, True, 400, 1.5, trim_db=40.0)):
        assert read_preprocessing(json.dumps(how.as_dict())) == how
    assert HOW.with_size(1234).shape == (1234,)
    assert (WANTED.size, HOW.size, HOW.num_bytes) == (RATE, RATE // 2, RATE)


def test_a_domain_says_how_long_its_sounds_are() -> None:
    assert SoundRendering(RATE, 0.5, 30.0).for_backbone(WANTED) == WaveformPreprocessing(RATE, True, 400, 0.5, 30.0)
    assert SoundRendering(RATE, 0.5).for_backbone(HOW) is HOW
    with pytest.raises(UserError, match=r"seconds=1\.0: the network's other sounds have seconds=0\.5"):
        SoundRendering(RATE).for_backbone(HOW)


@pytest.mark.parametrize(
    ("rendering", "message"),
    [
        (SoundRendering(16000), "sample_rate=16000: the backbone hears sounds of 8000 Hz; give sample_rate=8000"),
        (SoundRendering(RATE, 0.01), "80 samples at 8000 Hz are too few for the encoder, which needs 400"),
        (SoundRendering(RATE, range_db=60.0), "range_db=60.0: it is of spectrograms"),
    ],
)
def test_what_an_encoder_cannot_hear_is_refused(rendering: SoundRendering, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rendering.for_backbone(WANTED)


def test_a_domain_stores_waveforms_of_one_length(tmp_path: Path) -> None:
    for number, name in enumerate(("do", "mi")):
        for i in range(5):
            write_wav(tmp_path / name / f"{i}.wav", tone(300 * (number + 1), RATE, 0.2 + 0.1 * i), RATE)

    def domain(**settings: Any) -> Domain:
        return Domain("notes", AudioFolder(tmp_path), test_fraction=0.4, **settings)

    loaded = domain(rendering=SoundRendering(RATE, 0.5))
    loaded.load(WANTED)
    assert loaded.preprocessing == HOW
    assert next(iter(loaded.train_dataloader())).x.shape[1:] == (RATE // 2,)
    with pytest.raises(UserError, match="says no length of its sounds"):
        domain().load(WANTED)
