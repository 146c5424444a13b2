from pathlib import Path

import numpy as np
import pytest
from sounds import tone, write_wav

from graft.data.augment import Augmentation
from graft.data.domain import Domain
from graft.data.modalities import make_view
from graft.data.preprocessing import Preprocessing
from graft.data.readers.audio_folder import AudioFolder
from graft.data.several import SeveralDomains
from graft.data.sound_augment import SoundAugmentation
from graft.data.sound_preprocessing import SoundRendering, SpectrogramPreprocessing
from graft.errors import UserError

IMAGE = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
HOW = SoundRendering(sample_rate=8000, seconds=0.25)


def write_sounds(root: Path, num: int = 6) -> Path:
    """Two speakers who sing two notes."""
    for speaker, factor in (("ann", 1.0), ("bob", 0.8)):
        for note, frequency in (("do", 500), ("sol", 1500)):
            for i in range(num):
                path = root / speaker / note / f"{i}.wav"
                write_wav(path, tone(factor * frequency + 5 * i, 8000, 0.2), 8000)
    return root


def domain(root: Path, **settings: object) -> Domain:
    return Domain("notes", AudioFolder(root, "ann"), rendering=HOW, **settings)  # type: ignore[arg-type]


def test_speakers_are_domains(tmp_path: Path) -> None:
    root = write_sounds(tmp_path)
    raw = AudioFolder(root, ["bob", "ann"]).read()
    assert raw.modality == "audio"
    assert raw.class_names == ("do", "sol")
    assert len(raw.train) == 24
    assert raw.root == root
    with pytest.raises(UserError, match="the domains are ann, bob"):
        AudioFolder(root).read()
    with pytest.raises(UserError, match="domain=eve: the domains are ann, bob"):
        AudioFolder(root, "eve").read()


def test_a_folder_without_sounds(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "picture.jpg").touch()
    with pytest.raises(UserError, match=r"no sounds \(\.wav, \.flac, \.ogg\) in class 'a', 'b'"):
        AudioFolder(tmp_path).read()


def test_fingerprint_and_version_follow_the_content(tmp_path: Path) -> None:
    root = write_sounds(tmp_path / "one")
    reader = AudioFolder(root, "ann")
    before, version = reader.read().fingerprint, reader.version()
    assert AudioFolder(write_sounds(tmp_path / "two"), "ann").read().fingerprint == before
    assert reader.version() == version
    write_wav(root / "ann" / "do" / "0.wav", tone(700, 8000, 0.2), 8000)
    assert reader.version() != version
    assert reader.read().fingerprint != before


def test_a_domain_gives_an_image_backbone_spectrograms(tmp_path: Path) -> None:
    loaded = domain(write_sounds(tmp_path))
    loaded.load(IMAGE)
    assert loaded.preprocessing == SpectrogramPreprocessing(16, IMAGE.mean, IMAGE.std, 8000, 0.25)
    [batch, *_] = loaded.train_dataloader()
    assert batch.x.shape[1:] == (2000,)
    assert loaded.view.evaluate(batch.x).shape[1:] == (3, 16, 16)


def test_what_a_spectrogram_is_counts_in_the_fingerprint(tmp_path: Path) -> None:
    root, found = write_sounds(tmp_path), set()
    for how in (
        HOW,
        SoundRendering(8000, 0.3),
        SoundRendering(8000, 0.25, 40),
        SoundRendering(8000, 0.25, range_db=60),
    ):
        loaded = Domain("notes", AudioFolder(root, "ann"), rendering=how)
        loaded.load(IMAGE)
        found.add(loaded.fingerprint)
    assert len(found) == 4


def test_all_sounds_of_a_run_have_one_rate_and_length(tmp_path: Path) -> None:
    loaded = domain(write_sounds(tmp_path))
    same = SpectrogramPreprocessing(16, IMAGE.mean, IMAGE.std, 8000, 0.25)
    loaded.load(same)
    assert loaded.preprocessing == same
    with pytest.raises(UserError, match=r"sample_rate=8000: .* have sample_rate=16000"):
        loaded.load(SpectrogramPreprocessing(16, IMAGE.mean, IMAGE.std, 16000, 0.25))
    with pytest.raises(UserError, match=r"seconds=0\.25: .* have seconds=1\.0"):
        loaded.load(SpectrogramPreprocessing(16, IMAGE.mean, IMAGE.std, 8000, 1.0))


def test_several_speakers_with_labels_of_each(tmp_path: Path) -> None:
    root = write_sounds(tmp_path)
    parts = {name: Domain(name, AudioFolder(root, name), rendering=HOW) for name in ("ann", "bob")}
    both = SeveralDomains("both", parts)
    both.load(IMAGE)
    [batch, *_] = both.train_dataloader()
    assert both.view.evaluate(batch.x).shape[1:] == (3, 16, 16)


def test_broken_sounds_are_refused_or_left_out(tmp_path: Path) -> None:
    root = write_sounds(tmp_path)
    (root / "ann" / "do" / "0.wav").write_bytes(b"no sound")
    with pytest.raises(UserError, match=r"1 sound cannot be read.* ann/do/0\.wav \(not a WAV file\)"):
        domain(root).load(IMAGE)
    loaded = domain(root, skip_broken=True, test_fraction=0.0, val_fraction=0.0)
    loaded.load(IMAGE)
    assert loaded.sizes["train"] == 11


def test_sounds_that_are_not_kept_in_memory_give_the_same_batches(tmp_path: Path) -> None:
    root = write_sounds(tmp_path)
    kept, files = domain(root), domain(root, memory_limit_gib=0, num_workers=0)
    batches = []
    for loaded in (kept, files):
        loaded.load(IMAGE)
        batches.append(next(iter(loaded.train_dataloader())))
    assert np.array_equal(batches[0].x, batches[1].x)


def test_what_augments_images_does_not_augment_sounds(tmp_path: Path) -> None:
    how = SpectrogramPreprocessing(16, IMAGE.mean, IMAGE.std, 8000, 0.25)
    with pytest.raises(UserError, match="Augmentation does not augment a sound"):
        make_view(how, Augmentation(flip=True), 2)
    with pytest.raises(UserError, match="SoundAugmentation does not augment"):
        make_view(IMAGE, SoundAugmentation(shift=0.1), 2)


def test_a_backbone_takes_no_sounds_that_are_not_rendered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="notes holds sounds, and the backbone takes images"):
        Domain("notes", AudioFolder(write_sounds(tmp_path), "ann")).load(IMAGE)


@pytest.mark.parametrize("name", ["sample_rate", "seconds", "trim_db", "range_db"])
def test_values_that_cannot_be(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}=-1"):
        SoundRendering(**{name: -1})  # type: ignore[arg-type]
