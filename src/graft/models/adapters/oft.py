"""OFT: a rotation of each layer's inputs."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from graft.errors import UserError
from graft.models.adapters.library import LibraryAdapter, convolution_refusal


@dataclass(frozen=True, kw_only=True)
class Oft(LibraryAdapter):
    """W R x with R block-diagonal and orthogonal, the identity at the start (Qiu et al., NeurIPS 2023, section 3).

    Each block is a Cayley transform (I + Q)(I - Q)^-1 of a skew-symmetric Q, the inverse as the first terms of its
    Neumann series (Qiu et al., "Orthogonal Finetuning Made Scalable", EMNLP 2025). Linear layers and 1x1 convolutions:
    on larger kernels, PEFT adds up overlapping patches, which is no rotation, not even at the start.

    Args:
        block_size: of R's blocks; where it does not divide a layer's inputs, the nearest divisor is taken.

    Raises:
        UserError: a block size below 2.
    """

    block_size: int = 32

    def __post_init__(self) -> None:
        if self.block_size < 2:
            raise UserError(f"adapter.block_size={self.block_size}: adapter={self.name} expects 2 or more")

    def refusal(self, layer: nn.Module, num_axes: int) -> str | None:
        """Also convolutions that look at more than a pixel, and linear layers on images, taken for convolutions."""
        if isinstance(layer, nn.Linear) and num_axes == 4:
            return "linear layers on four axes, which PEFT takes for convolutions"
        if isinstance(layer, nn.Conv2d) and set(layer.kernel_size) != {1}:
            return "convolutions larger than 1x1"
        return super().refusal(layer, num_axes) or convolution_refusal(layer)

    def _config(self, peft: Any, pattern: str) -> Any:
        return peft.OFTConfig(oft_block_size=self.block_size, target_modules=pattern)
