"""Settings compared on the same seeds and splits, against what they cost; and which settings mattered."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from graft.errors import UserError, did_you_mean, listed
from graft.reports.notes import label
from graft.reports.settings import Record, seeds, value_of
from graft.reports.statistics import (
    chance_eta_squared,
    eta_squared,
    holm,
    paired_t_test,
    pareto_front,
    spread,
)
from graft.reports.tables import ACCURACY, Study, fingerprints, row, varied_name

Reference = Mapping[str, str]  # name of what varied -> value; empty: each run's own baseline


def parse_reference(words: Sequence[str], study: Study) -> dict[str, str]:
    """What `--against KEY=VALUE ...` says, by the full names of what varied.

    Raises:
        UserError: a key that does not vary between the runs, or a value that none of them has.
    """
    reference = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--against {word}: expected KEY=VALUE, as in --against strategy=linear_probe")
        name = varied_name(study, key, f"--against {word}: {key}")
        values = {values[name] for values, _, _ in study.groups}
        if value not in values:
            raise UserError(f"--against {word}: no run has {value!r}; {did_you_mean(value, values)}")
        reference[name] = value
    return reference


def compared_rows(study: Study, reference: Reference) -> list[dict[str, Any]]:
    """The rows of `tables.group_rows`, each with `comparison` and `front`, and its `records`.

    `comparison` holds `difference` (a figure; None where nothing was paired), `pairs`, `p` and `adjusted` (None where
    not tested). `front` says for each cost, `seconds` and `trained`, whether the row is on the Pareto front of the rows
    with the same target on the same device.

    Raises:
        UserError: the reference stands for several settings.
    """
    rows = [row(*group) | {"records": group[1]} for group in study.groups]
    references = References(rows, reference)
    for each in rows:
        values = differences(each["records"], references.of(each)) if reference else own_differences(each["records"])
        each["comparison"] = {"difference": spread(values), "pairs": len(values), "p": paired_t_test(values)}
    for each, adjusted in zip(rows, holm([each["comparison"]["p"] for each in rows]), strict=True):
        each["comparison"]["adjusted"] = adjusted
    mark_fronts(rows)
    return rows


def own_differences(records: Sequence[Record]) -> list[float]:
    """Each run's gain over its own baseline, which had its labels, budget, head and seed."""
    return [record["transfer"]["gain"] for record in records if record["transfer"]]


class References:
    """The rows that a reference stands for, found by what they have beside it."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], reference: Reference) -> None:
        self.reference = reference
        self.found: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for each in rows:
            if is_reference(each, reference):
                self.found[self.beside(each)].append(each)

    def beside(self, each: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """The values of a setting that the reference says nothing of; keys of a group that it names go with that."""
        return tuple(
            (name, value)
            for name, value in each["setting"].items()
            if not any(name == named or name.startswith(f"{named}.") for named in self.reference)
        )

    def of(self, each: Mapping[str, Any]) -> list[Record]:
        """The runs that those of a row are compared with: they differ in what the reference names alone.

        Raises:
            UserError: they are of several settings.
        """
        if is_reference(each, self.reference):
            return []
        found = self.found.get(self.beside(each), [])
        settings = [dict(values) for values in {tuple(other["setting"].items()) for other in found}]
        if len(settings) > 1:
            names = [name for name in settings[0] if len({values[name] for values in settings}) > 1]
            raise UserError(
                f"--against {label(self.reference)}: stands for {len(settings)} settings; give {listed(names, 3)} too"
            )
        return [record for other in found for record in other["records"]]


def is_reference(each: Mapping[str, Any], reference: Reference) -> bool:
    """Whether a row is of the reference itself."""
    return bool(reference) and all(each["setting"][name] == value for name, value in reference.items())


def differences(records: Sequence[Record], references: Sequence[Record]) -> list[float]:
    """Accuracy on the target's test split minus that of the reference's run with the same seeds, for each that has one.

    In the order of `records`.
    """
    by_seeds: dict[Any, list[Record]] = defaultdict(list)
    for record in references:
        by_seeds[repr(seeds(record))].append(record)
    pairs = (
        (record, next((other for other in by_seeds[repr(seeds(record))] if comparable(record, other)), None))
        for record in records
    )
    return [record["metrics"][ACCURACY] - other["metrics"][ACCURACY] for record, other in pairs if other is not None]


def comparable(one: Record, other: Record) -> bool:
    """Whether two runs differ in their settings alone: same code, packages and device, and the same data and splits.

    The hash of data and splits covers what is done to images and the settings of the target; where these differ, they
    are what is compared. Threads of a CPU follow from the network's size.
    """
    first, second = fingerprints(one), fingerprints(other)
    if any(first.get(name) != second.get(name) for name in ("code", "packages")):
        return False
    if str(first["device"]).partition(",")[0] != str(second["device"]).partition(",")[0]:
        return False
    other_data = (
        first["preprocessing"] != second["preprocessing"] or one["config"]["target"] != other["config"]["target"]
    )
    return other_data or first["target_data"] == second["target_data"]


def mark_fronts(rows: Sequence[dict[str, Any]]) -> None:
    """Give each row its `front`."""
    alike: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for each in rows:
        each["front"] = {}
        alike[same_task(each)].append(each)
    for members in alike.values():
        accuracies = [each["accuracy"]["mean"] for each in members]
        costs = {
            "seconds": [each["seconds"]["mean"] for each in members],
            "trained": [each["trainable_parameters"] for each in members],
        }
        for name, values in costs.items():
            for each, on_front in zip(members, pareto_front(accuracies, values), strict=True):
                each["front"][name] = on_front


def same_task(each: Mapping[str, Any]) -> tuple[Any, ...]:
    """What rows have in common whose accuracies and seconds can be weighed against each other: target and device."""
    target = tuple((name, value) for name, value in each["setting"].items() if name.split(".")[0] == "target")
    return (*target, each["records"][0]["target"], each["records"][0]["fingerprints"]["device"])


def importance(study: Study) -> list[dict[str, Any]]:
    """How much of the variance of test accuracy over all runs each varied name explains by itself, most first.

    Returns:
        For each name, `seed` among them, `share` (`eta_squared`), `chance` (its mean if the name did nothing) and
        `levels`; in a balanced full grid also what all of them leave, under the name `rest`. Nothing for fewer than
        three runs, equal accuracies, or a name that differs from run to run.
    """
    records = study.counted
    factors = {name: [value_of(record, name) for record in records] for name in study.names}
    factors["seed"] = [str(record["seed"]) for record in records]
    accuracies = [record["metrics"][ACCURACY] for record in records]
    found: list[dict[str, Any]] = []
    for name, levels in factors.items():
        num_levels, share = len(set(levels)), eta_squared(accuracies, levels)
        if share is not None and 1 < num_levels < len(records):
            chance = chance_eta_squared(len(records), num_levels)
            found.append({"name": name, "share": share, "chance": chance, "levels": num_levels})
    found.sort(key=lambda each: -each["share"])
    cells = Counter(zip(*factors.values(), strict=True))
    full = len(cells) == prod(len(set(levels)) for levels in factors.values()) and len(set(cells.values())) == 1
    if full and len(found) > 1:
        rest = max(0.0, 1 - sum(each["share"] for each in found))
        found.append({"name": "rest", "share": rest, "chance": None, "levels": None})
    return found
