"""WiSE-FT: the best point on the line from the starting weights to the fine-tuned ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graft.after.base import After, Finished, load_average
from graft.averaging import State
from graft.errors import UserError
from graft.models.network import Network
from graft.records.hashing import content_hash
from graft.stage import Stage, first_of_backbone, fit_stage, read_start, snapshot
from graft.strategies.phases import ResolvedPhase, Strategy

PROBE = Strategy(
    "probe",
    [{"name": "probe", "augment": False, "rules": {r"(mapping|head)\..*": {"lr_scale": 1}, r"backbone\..*": None}}],
)


@dataclass(frozen=True)
class WiseFT(After):
    """Interpolates between the start and the end of fine-tuning.

    Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022. Their start is a zero-shot classifier; here it
    is the starting backbone under a head for the target: the network where the training of the backbone began if a
    phase before had trained the head (lp_ft), or if the head is solved; else a linear probe, trained from the same
    initial head with the run's optimiser and epochs.

    Args:
        num_alphas: points of the curve, evenly from 0 (the start) to 1 (the end).
        alpha: the point whose figures are given; None: that of the best accuracy on val, then of the least loss.

    Raises:
        UserError: an argument is out of range.
    """

    num_alphas: int = 11
    alpha: float | None = None

    needs_start = True

    def __post_init__(self) -> None:
        if self.num_alphas < 2:
            raise UserError(f"after.wise_ft.num_alphas={self.num_alphas}; expected 2 or more")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise UserError(f"after.wise_ft.alpha={self.alpha}; expected a number from 0 to 1, or null")

    @property
    def needs_val(self) -> bool:
        """Whether alpha is chosen."""
        return self.alpha is None

    def __call__(self, finished: Finished) -> dict[str, Any]:
        """`metrics` at `alpha`, and the `curve`: a row for each alpha with the target's and the source's accuracies."""
        stage, network = finished.stage, finished.network
        end = snapshot(network)
        start = starting_state(stage, network)
        alphas = {round(float(alpha), 6) for alpha in np.linspace(0, 1, self.num_alphas)}
        if self.alpha is not None:
            alphas.add(self.alpha)
        curve = []
        for alpha in sorted(alphas):
            load_average(stage, network, [start, end], [1 - alpha, alpha])
            source = finished.source_accuracy(network)
            on_source = {} if source is None else {"source/test/accuracy": source}
            curve.append({"alpha": alpha} | finished.metrics() | on_source)
        alpha = best_alpha(curve) if self.alpha is None else self.alpha
        load_average(stage, network, [start, end], [1 - alpha, alpha])
        finished.save("wise_ft")
        network.load_state_dict(end)
        chosen = next(row for row in curve if row["alpha"] == alpha)
        return {"metrics": {key: chosen[key] for key in chosen if key != "alpha"}, "alpha": alpha, "curve": curve}


def best_alpha(curve: Sequence[Mapping[str, float]]) -> float:
    """The alpha of the best accuracy on val; of several, that of the least loss on val."""
    return max(curve, key=lambda row: (row["target/val/accuracy"], -row["target/val/loss"]))["alpha"]


def starting_state(stage: Stage, network: Network) -> State:
    """The starting backbone under a head that fits the target; the network is left in that state."""
    phases = stage.training.strategy.resolve(network, stage.training.max_epochs)
    network.load_state_dict(read_start(stage))
    if has_head(network, phases):
        return snapshot(network)
    training = replace(stage.training, strategy=PROBE, regularisers={})
    folder, key = stage.folder / "probe", content_hash([stage.key, "probe"])
    return fit_stage(replace(stage, training=training, folder=folder, key=key, keep_start=False), network).last


def has_head(network: Network, phases: Sequence[ResolvedPhase]) -> bool:
    """Whether the head was trained, or solved, by the time that the training of the backbone began."""
    before = phases[: first_of_backbone(phases)]
    trained = any("head" in phase.trained_groups for phase in before)
    return trained or any(name.startswith("head.") for name in network.solved_names())
