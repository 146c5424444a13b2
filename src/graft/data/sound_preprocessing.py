"""What turns a sound into a backbone's input: a spectrogram for those that see images, or the waveform as it is."""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from graft.data.log_mel import MelBands
from graft.data.preprocessing import Inputs, Preprocessing
from graft.data.waveform_preprocessing import FORM, WaveformPreprocessing
from graft.data.waveforms import Sampling
from graft.errors import UserError

RANGE_DB = 80.0  # what is so far below the loudest of a sound is taken for silence


@dataclass(frozen=True)
class SpectrogramPreprocessing:
    """Mono at one rate and length, a log-mel spectrogram of `size` bands and frames from 0 to 1, normalised.

    The spectrogram stands in every channel of the backbone (`graft.data.log_mel` says how it is computed), and each is
    normalised as pixels from 0 to 1 would be.
    """

    modality: ClassVar[str] = "audio"

    size: int  # bands and frames
    mean: tuple[float, ...]  # per channel, of values in [0, 1]
    std: tuple[float, ...]
    rate: int  # Hz
    seconds: float
    trim_db: float | None = None
    range_db: float = RANGE_DB

    @property
    def channels(self) -> int:
        """1 or 3."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, bands and frames."""
        return self.channels, self.size, self.size

    @property
    def num_bytes(self) -> int:
        """Memory that one waveform takes."""
        return 2 * self.sampling.samples

    @property
    def sampling(self) -> Sampling:
        """To what every sound is brought."""
        return Sampling(self.rate, self.seconds, self.trim_db)

    @property
    def bands(self) -> MelBands:
        """What the spectrogram is computed by."""
        return MelBands(self.rate, self.sampling.samples, self.size)

    def with_size(self, size: int) -> "SpectrogramPreprocessing":
        """The same with so many bands and frames."""
        return replace(self, size=size)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for records, fingerprints and metadata."""
        return {"modality": self.modality, **asdict(self)}

    def blank(self, num: int) -> Tensor:
        """Spectrograms [n, c, size, size] of zeros."""
        return torch.zeros(num, *self.shape)

    def noise(self, num: int) -> Tensor:
        """Spectrograms [n, c, size, size] of normal noise."""
        return torch.randn(num, *self.shape)


# What sounds go through for one kind of backbone or the other.
SoundPreprocessing = SpectrogramPreprocessing | WaveformPreprocessing


def sound_preprocessing(values: dict[str, Any]) -> SoundPreprocessing:
    """The preprocessing that `as_dict` described, without its `modality`."""
    if values.get("form") == FORM:
        return WaveformPreprocessing(**{name: value for name, value in values.items() if name != "form"})
    return SpectrogramPreprocessing(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


@dataclass(frozen=True)
class SoundRendering:
    """Sounds for a backbone that takes images, as spectrograms, or for one that takes waveforms.

    A spectrogram has as many bands and frames as the backbone takes rows and columns of pixels.

    Args:
        sample_rate: in Hz, to which all are resampled.
        seconds: to which all are cut or padded with silence, on both sides alike.
        trim_db: silence at both ends, so far below the loudest 20 ms, is cut off first; None cuts off nothing.
        range_db: of spectrograms: what is so far below the loudest of a sound is taken for silence.
    """

    sample_rate: int = 16000
    seconds: float = 1.0
    trim_db: float | None = None
    range_db: float = RANGE_DB

    def __post_init__(self) -> None:
        Sampling(self.sample_rate, self.seconds, self.trim_db)
        if not self.range_db > 0:
            raise UserError(f"range_db={self.range_db}: expected a number of decibels above 0")

    def for_backbone(self, wanted: Inputs) -> Inputs:
        """What sounds go through for a backbone that wants these inputs.

        Raises:
            UserError: it wants neither images nor waveforms, waveforms of another rate, or other sounds than these.
        """
        if isinstance(wanted, WaveformPreprocessing):
            return self._waveforms(wanted)
        if isinstance(wanted, SpectrogramPreprocessing):
            self._check_same({**asdict(wanted), "sample_rate": wanted.rate})
            return wanted
        if not isinstance(wanted, Preprocessing):
            return wanted  # to be refused by the domain
        how = (self.sample_rate, self.seconds, self.trim_db, self.range_db)
        return SpectrogramPreprocessing(wanted.size, wanted.mean, wanted.std, *how)

    def _waveforms(self, wanted: WaveformPreprocessing) -> WaveformPreprocessing:
        if self.sample_rate != wanted.rate:
            raise UserError(
                f"sample_rate={self.sample_rate}: the backbone hears sounds of {wanted.rate} Hz; give "
                f"sample_rate={wanted.rate}, to which files of any rate are resampled"
            )
        if self.range_db != RANGE_DB:
            raise UserError(f"range_db={self.range_db}: it is of spectrograms, and the backbone hears waveforms")
        if wanted.seconds is None:
            return replace(wanted, seconds=self.seconds, trim_db=self.trim_db)
        self._check_same({**asdict(wanted), "sample_rate": wanted.rate, "range_db": RANGE_DB})
        return wanted

    def _check_same(self, theirs: dict[str, Any]) -> None:
        for name, value in asdict(self).items():
            if value != theirs[name]:
                raise UserError(
                    f"{name}={value}: the network's other sounds have {name}={theirs[name]}; give all of them the same"
                )


Spectrogram = SoundRendering  # its name in the records of earlier runs
