"""Temperature scaling: one number that makes the network's confidence mean what it says."""

import math
from dataclasses import dataclass
from typing import Any

from scipy.optimize import brentq
from torch import Tensor

from graft.after.base import After, Finished
from graft.evaluation import evaluation_loader, predict, scores
from graft.summary import flat_scores

LIMIT = 100.0  # the temperature is sought between its inverse and this


@dataclass(frozen=True)
class TemperatureScaling(After):
    """Divides logits by the temperature that minimises the loss on the target's val split; accuracies stay.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """

    needs_val = True
    needs_start = False

    def __call__(self, finished: Finished) -> dict[str, Any]:
        """`metrics` under the temperature, and `temperature`."""
        domain, device = finished.target, finished.stage.training.device
        found = {
            split: predict(finished.network, evaluation_loader(domain, split), domain.view, device)
            for split in finished.splits
        }
        temperature = best_temperature(*found["val"])
        scaled = {split: scores(logits.double() / temperature, labels) for split, (logits, labels) in found.items()}
        return {"metrics": flat_scores(scaled, "target"), "temperature": temperature}


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature between 1/100 and 100 under which logits [n, k] have the least cross-entropy with labels [n].

    The loss is convex in b = 1 / T, with the derivative E_softmax(b z)[z] - z_y, averaged over samples; its zero is
    found in float64. Where all samples are classified rightly by any margin, or worse than chance, there is none, and
    the limit on that side is returned.
    """
    z = logits.double()
    right = z.gather(1, labels[:, None])[:, 0]

    def slope(log_b: float) -> float:
        probabilities = (math.exp(log_b) * z).softmax(dim=1)
        return float(((probabilities * z).sum(dim=1) - right).mean())

    low, high = -math.log(LIMIT), math.log(LIMIT)
    if slope(low) >= 0:
        return LIMIT
    if slope(high) <= 0:
        return 1 / LIMIT
    return math.exp(-brentq(slope, low, high, xtol=1e-12))
