"""What turns a sound into an image backbone's input."""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from graft.data.log_mel import MelBands
from graft.data.preprocessing import Inputs, Preprocessing
from graft.data.waveforms import Sampling
from graft.errors import UserError

RANGE_DB = 80.0  # what is so far below the loudest of a sound is taken for silence


@dataclass(frozen=True)
class SoundPreprocessing:
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

    def with_size(self, size: int) -> "SoundPreprocessing":
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


def sound_preprocessing(values: dict[str, Any]) -> SoundPreprocessing:
    """The preprocessing that `as_dict` described, without its `modality`."""
    return SoundPreprocessing(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


@dataclass(frozen=True)
class Spectrogram:
    """Sounds for a backbone that takes images: as many bands and frames as it takes rows and columns of pixels.

    Args:
        sample_rate: in Hz, to which all are resampled.
        seconds: to which all are cut or padded with silence, on both sides alike.
        trim_db: silence at both ends, so far below the loudest 20 ms, is cut off first; None cuts off nothing.
        range_db: what is so far below the loudest of a sound is taken for silence.
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
            UserError: it wants no images, or spectrograms of other sounds.
        """
        if isinstance(wanted, SoundPreprocessing):
            self._check_same(wanted)
            return wanted
        if not isinstance(wanted, Preprocessing):
            return wanted  # to be refused by the domain
        how = (self.sample_rate, self.seconds, self.trim_db, self.range_db)
        return SoundPreprocessing(wanted.size, wanted.mean, wanted.std, *how)

    def _check_same(self, other: SoundPreprocessing) -> None:
        theirs = {"sample_rate": other.rate, **asdict(other)}
        for name, value in asdict(self).items():
            if value != theirs[name]:
                raise UserError(
                    f"{name}={value}: the network's other sounds have {name}={theirs[name]}; give all of them the same"
                )
