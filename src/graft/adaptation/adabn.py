"""AdaBN: norm layers get the statistics of the target."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graft.adaptation.base import Adaptation
from graft.data.domain import Domain
from graft.errors import UserError
from graft.features import Inference
from graft.models.network import Network
from graft.recalibration import recalibrate
from graft.regularisers.base import Beginning
from graft.strategies.phases import ResolvedPhase
from graft.strategies.rules import has_statistics


@dataclass(frozen=True)
class AdaBN(Adaptation):
    """Sets running statistics to those of the target's training images once all training is over.

    Li et al., "Revisiting batch normalization for practical domain adaptation", 2017, algorithm 1. By itself it trains
    nothing, whatever the strategy: the result is the source's network under the target's statistics. Beside other
    methods (`source_only` among them), it follows their training.
    """

    trains: ClassVar[bool] = False

    def check(self, network: Network, phases: Sequence[ResolvedPhase]) -> None:
        """There are statistics to replace."""
        super().check(network, phases)
        if not any(has_statistics(module) for module in network.backbone.modules()):
            raise UserError(
                "it replaces the running statistics of norm layers, and this backbone has none; use a backbone with "
                "batch norm, such as backbone=resnet20"
            )

    def begin(self, beginning: Beginning) -> None:
        """There is no term."""

    def finish(self, network: Network, target: Domain, how: Inference) -> None:
        """Recalibrate the backbone on the target."""
        recalibrate(network.backbone, target, how)
