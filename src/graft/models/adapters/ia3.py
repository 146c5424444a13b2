"""IA3: a factor for each output of a layer."""

from dataclasses import dataclass
from typing import Any, ClassVar

from graft.models.adapters.library import LibraryAdapter


@dataclass(frozen=True, kw_only=True)
class Ia3(LibraryAdapter):
    """l * (W x + b) with one factor l for each output or channel, 1 at the start.

    Liu et al., NeurIPS 2022, section 3.3. The paper scales keys, values and the hidden layer of each feed-forward part;
    here every layer taken is scaled.
    """

    undecayed: ClassVar[tuple[str, ...]] = ("ia3_l",)

    def _config(self, peft: Any, pattern: str) -> Any:
        return peft.IA3Config(target_modules=pattern, feedforward_modules=[])
