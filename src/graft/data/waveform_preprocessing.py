"""What turns a sound into the input of an encoder that hears waveforms."""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from graft.data.waveforms import Sampling
from graft.errors import UserError

FORM = "waveform"  # as plain values say; of spectrograms they say none


@dataclass(frozen=True)
class WaveformPreprocessing:
    """Mono at one rate and length, of values from -1 to 1, or normalised: each of mean 0 and variance 1.

    An encoder takes sounds of one rate and of any length, so that `seconds` are left open until a domain says them.

    Raises:
        UserError: a rate or a length that cannot be, or sounds too short for the encoder.
    """

    modality: ClassVar[str] = "audio"

    rate: int  # Hz
    normalised: bool
    shortest: int = 1  # samples that the encoder needs
    seconds: float | None = None
    trim_db: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is None:
            Sampling(self.rate, 1.0)
        elif self.sampling.samples < self.shortest:
            raise UserError(
                f"seconds={self.seconds:g}: {self.sampling.samples} samples at {self.rate} Hz are too few for the "
                f"encoder, which needs {self.shortest}"
            )

    @property
    def size(self) -> int:
        """Samples of an input; those of a second while the length is open."""
        return self.rate if self.seconds is None else self.sampling.samples

    @property
    def shape(self) -> tuple[int]:
        """Samples of an input."""
        return (self.size,)

    @property
    def num_bytes(self) -> int:
        """Memory that one stored waveform takes."""
        return 2 * self.size

    @property
    def sampling(self) -> Sampling:
        """To what every sound is brought.

        Raises:
            UserError: the length is open.
        """
        if self.seconds is None:
            raise UserError("the domain says no length of its sounds: set its rendering as that of audio_folder is")
        return Sampling(self.rate, self.seconds, self.trim_db)

    def with_size(self, size: int) -> "WaveformPreprocessing":
        """The same with so many samples."""
        return replace(self, seconds=size / self.rate)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for records, fingerprints and metadata."""
        return {"modality": self.modality, "form": FORM, **asdict(self)}

    def blank(self, num: int) -> Tensor:
        """Waveforms [n, samples] of zeros."""
        return torch.zeros(num, *self.shape)

    def noise(self, num: int) -> Tensor:
        """Waveforms [n, samples] of normal noise."""
        return torch.randn(num, *self.shape)
