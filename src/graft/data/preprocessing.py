"""What turns a stored image into a backbone's input."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter edge to the canvas, crop its centre square, scale to [0, 1], crop to `size`, normalise.

    >>> Preprocessing(size=224, mean=(0.5,) * 3, std=(0.5,) * 3, resize=256).canvas
    256
    """

    size: int  # height and width of what the backbone sees
    mean: tuple[float, ...]  # per channel, of values in [0, 1]; one channel is grey, three are colour
    std: tuple[float, ...]
    resize: int | None = None  # height and width of the canvas; None is `size`
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @property
    def channels(self) -> int:
        """1 or 3."""
        return len(self.mean)

    @property
    def canvas(self) -> int:
        """Height and width at which images are stored."""
        return self.resize or self.size

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for records, fingerprints and metadata."""
        return asdict(self)
