"""DoRA: direction by LoRA, magnitude by a number for each output."""

from dataclasses import dataclass
from typing import Any, ClassVar

from graft.models.adapters.lora import Lora


@dataclass(frozen=True, kw_only=True)
class Dora(Lora):
    """m (W + s B A) / ||W + s B A|| row by row, with s = alpha / r and m = ||W|| at the start.

    Liu et al., ICML 2024, eq. 5; the norm counts as a constant in the gradient (their section 4.3).
    """

    contiguous_only: ClassVar[bool] = True
    undecayed: ClassVar[tuple[str, ...]] = ("lora_magnitude_vector",)

    def _config(self, peft: Any, pattern: str, **more: Any) -> Any:
        return super()._config(peft, pattern, use_dora=True, **more)
