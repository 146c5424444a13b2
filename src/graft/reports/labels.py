"""How many labels training from scratch needs for the accuracy that transfer has."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from scipy.optimize import isotonic_regression

from graft.reports.settings import Record
from graft.reports.tables import ACCURACY, finished, study_of

SCRATCH = "scratch"
BUDGET = ("target.labels_per_class", "target.fraction")
# Parts of the configuration that scratch does not depend on, and the label budget.
NOT_OF_SCRATCH = (
    "source",
    "pretrain",
    "strategy",
    "regulariser",
    "adapter",
    "after",
    "name",
    "backbone.weights",
    "backbone.reinitialise",
    *BUDGET,
)
COMPARED = ("preprocessing", "code", "packages", "device")  # fingerprints that budgets of one target share


@dataclass(frozen=True)
class LabelsNeeded:
    """Labels that scratch needs: between `least` and `most`, which is None where no budget sufficed."""

    least: float
    most: float | None

    def __str__(self) -> str:
        """`214`, `≤100` where the smallest budget suffices, `>400` where the largest does not."""
        if self.most is None:
            return f">{self.least:,.0f}"
        return f"{self.most:,.0f}" if self.least == self.most else f"≤{self.most:,.0f}"


def labels_needed(accuracy: float, budgets: Mapping[int, Sequence[float]]) -> LabelsNeeded:
    """The labels at which scratch's mean accuracy reaches `accuracy`.

    The means are made non-decreasing in the number of labels (isotonic regression, weighted by the number of runs), and
    joined by straight lines over the logarithm of that number.

    Args:
        accuracy: to be reached.
        budgets: number of labels -> accuracies from scratch, one for each run.

    >>> curve = {10: [0.5], 40: [0.7], 160: [0.9]}
    >>> str(labels_needed(0.6, curve)), str(labels_needed(0.4, curve)), str(labels_needed(0.95, curve))
    ('20', '≤10', '>160')
    """
    labels = sorted(budgets)
    means = [sum(budgets[num]) / len(budgets[num]) for num in labels]
    curve = isotonic_regression(means, weights=[len(budgets[num]) for num in labels]).x.tolist()
    reached = next((i for i, value in enumerate(curve) if value >= accuracy), None)
    if reached is None:
        return LabelsNeeded(labels[-1], None)
    if reached == 0:
        return LabelsNeeded(0, labels[0])
    share = (accuracy - curve[reached - 1]) / (curve[reached] - curve[reached - 1])
    low, high = math.log(labels[reached - 1]), math.log(labels[reached])
    needed = math.exp(low + share * (high - low))
    return LabelsNeeded(needed, needed)


def scratch_curves(records: Sequence[Record]) -> dict[str, dict[int, list[float]]]:
    """By `scratch_key`: number of labels -> test accuracies from scratch, one for each seed.

    They are those of the runs' scratch baselines, or of runs under the scratch strategy that have none.
    """
    runs: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
    settings = study_of(records).settings
    for record in finished(records):
        scratch = record["baselines"].get(SCRATCH) or (record if is_scratch(record) else None)
        if scratch is not None and "training_labels" in record:
            key = scratch_key(record, settings[id(record)])
            runs[key][record["training_labels"], record["seed"]] = scratch["metrics"][ACCURACY]
    curves: dict[str, dict[int, list[float]]] = {}
    for key, accuracies in runs.items():
        curves[key] = defaultdict(list)
        for (num, _), accuracy in accuracies.items():
            curves[key][num].append(accuracy)
    return curves


def is_scratch(record: Record) -> bool:
    """Whether the run is what a scratch baseline is: without regularisers and adapter."""
    return record["strategy"] == SCRATCH and not record["config"].get("regulariser") and not record.get("adapter")


@cache
def matters_to_scratch(key: str) -> bool:
    """Whether scratch depends on a dotted key, its labels aside."""
    return not any(key == name or key.startswith(f"{name}.") for name in NOT_OF_SCRATCH)


def scratch_key(record: Record, setting: Mapping[str, str]) -> str:
    """What two records share when their scratch baselines differ in nothing but the labels and the seed."""
    flat = {key: value for key, value in setting.items() if matters_to_scratch(key)}
    return repr((flat, {name: record["fingerprints"].get(name) for name in COMPARED}))
