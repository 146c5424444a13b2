"""LoRA: a low-rank matrix beside each weight."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from graft.models.adapters.checks import check_at_least_one, check_share
from graft.models.adapters.library import LibraryAdapter, convolution_refusal


@dataclass(frozen=True, kw_only=True)
class Lora(LibraryAdapter):
    """W x + s B A x with A [r, d], B [d', r] zero at the start, and s = alpha / r (Hu et al., ICLR 2022, section 4.1).

    Beside a convolution, A is a convolution of the same kernel, stride and padding into r channels and B a 1x1 one.

    Args:
        rank: r.
        alpha: the numerator of s.
        dropout: share of x that A does not see in training.

    Raises:
        UserError: a rank below 1, or a dropout that is no share.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_at_least_one(self.name, "rank", self.rank)
        check_share(self.name, "dropout", self.dropout)

    def refusal(self, layer: nn.Module, num_axes: int) -> str | None:
        """Also convolutions that a low-rank pair cannot stand beside."""
        return super().refusal(layer, num_axes) or convolution_refusal(layer)

    def _config(self, peft: Any, pattern: str, **more: Any) -> Any:
        return peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=pattern, **more
        )
