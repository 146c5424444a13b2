"""VeRA: two vectors for each layer around one pair of random matrices for all."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from graft.models.adapters.checks import check_at_least_one, check_share
from graft.models.adapters.library import LibraryAdapter


@dataclass(frozen=True, kw_only=True)
class Vera(LibraryAdapter):
    """W x + b * B (d * A x) with A [r, .] and B [., r] random, fixed and shared, b zero and d `initial` at the start.

    Kopiczko et al., ICLR 2024, eq. 2. A and B are drawn from `seed` and stored nowhere. Linear layers only.

    Args:
        rank: r.
        initial: what d starts with.
        dropout: share of x that A does not see in training.
        seed: of A and B.

    Raises:
        UserError: a rank below 1, or a dropout that is no share.
    """

    rank: int = 256
    initial: float = 0.1
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least_one(self.name, "rank", self.rank)
        check_share(self.name, "dropout", self.dropout)

    def refusal(self, layer: nn.Module, num_axes: int) -> str | None:
        """Also convolutions."""
        if isinstance(layer, nn.Conv2d):
            return "convolutions, which VeRA does not take"
        return super().refusal(layer, num_axes)

    def _config(self, peft: Any, pattern: str) -> Any:
        return peft.VeraConfig(
            r=self.rank,
            d_initial=self.initial,
            vera_dropout=self.dropout,
            projection_prng_key=self.seed,
            save_projection=False,
            target_modules=pattern,
        )
