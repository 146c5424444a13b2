"""Rank-stabilised LoRA."""

from dataclasses import dataclass
from typing import Any

from graft.models.adapters.lora import Lora


@dataclass(frozen=True, kw_only=True)
class RankStabilisedLora(Lora):
    """LoRA with s = alpha / sqrt(r), so that the size of a step does not depend on r (Kalajdzievski 2023, eq. 5)."""

    def _config(self, peft: Any, pattern: str, **more: Any) -> Any:
        return super()._config(peft, pattern, use_rslora=True, **more)
