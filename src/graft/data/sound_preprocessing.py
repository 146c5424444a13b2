"""What turns a sound into an image backbone's input."""

from dataclasses import asdict, dataclass
from typing import Any

from graft.data.log_mel import MelBands
from graft.data.preprocessing import Preprocessing
from graft.data.waveforms import Sampling

RANGE_DB = 80.0  # what is so far below the loudest of a sound is taken for silence


@dataclass(frozen=True)
class SoundPreprocessing:
    """Mono at one rate and length, a log-mel spectrogram of `size` bands and frames from 0 to 1, normalised.

    The spectrogram stands in every channel of the backbone (`graft.data.log_mel` says how it is computed), and each is
    normalised as pixels from 0 to 1 would be.
    """

    size: int  # bands and frames
    mean: tuple[float, ...]  # per channel, of values in [0, 1]
    std: tuple[float, ...]
    rate: int  # Hz
    seconds: float
    trim_db: float | None = None
    range_db: float = RANGE_DB

    @classmethod
    def of(cls, image: Preprocessing, sampling: Sampling) -> "SoundPreprocessing":
        """For a backbone that takes images: as many bands and frames as it takes rows and columns of pixels."""
        return cls(image.size, image.mean, image.std, sampling.rate, sampling.seconds, sampling.trim_db)

    @property
    def channels(self) -> int:
        """1 or 3."""
        return len(self.mean)

    @property
    def sampling(self) -> Sampling:
        """To what every sound is brought."""
        return Sampling(self.rate, self.seconds, self.trim_db)

    @property
    def bands(self) -> MelBands:
        """What the spectrogram is computed by."""
        return MelBands(self.rate, self.sampling.samples, self.size)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for records, fingerprints and metadata."""
        return asdict(self)
