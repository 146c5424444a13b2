"""From records to rows: grouped by what varied, with mean, spread and n."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy.stats import t as student_t

Record = Mapping[str, Any]

ACCURACY = "target/test/accuracy"

# Records are averaged only where these agree; pretrained weights and devices may differ from seed to seed.
COMPARABLE = ("target_data", "preprocessing", "code")

# Configuration that never distinguishes two settings: where a run writes, and what its seeds are.
NOT_A_SETTING = ("paths", "hydra", "logger", "seed", "pretrain.seed")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys; lists stay whole, as tuples.

    >>> flatten({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': (2,)}
    """
    if isinstance(value, Mapping) and value:
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat |= flatten(item, f"{prefix}{key}.")
        return flat
    return {prefix.removesuffix("."): freeze(value)}


def freeze(value: Any) -> Any:
    """Lists and dicts as tuples, so that values can be compared and hashed."""
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    if isinstance(value, Mapping):
        return tuple((key, freeze(item)) for key, item in value.items())
    return value


def setting(record: Record) -> dict[str, Any]:
    """The part of a record's configuration that makes it another experiment, flat."""
    flat = flatten(record["config"])
    return {
        key: value
        for key, value in flat.items()
        if not any(key == name or key.startswith(f"{name}.") for name in NOT_A_SETTING)
    }


def varied_keys(records: Sequence[Record]) -> list[str]:
    """What differs between the records' settings, under short names: the group's name where a whole group differs.

    >>> a = {"strategy": "scratch", "config": {"strategy": {"name": "scratch"}, "optimizer": {"lr": 1}}}
    >>> b = {"strategy": "lp_ft", "config": {"strategy": {"name": "lp_ft"}, "optimizer": {"lr": 1}}}
    >>> varied_keys([a, b])
    ['strategy']
    """
    settings = [setting(record) for record in records]
    keys = sorted({key for flat in settings for key in flat})
    varied = [key for key in keys if len({flat.get(key) for flat in settings}) > 1]
    names = dict.fromkeys(short_name(key, records) for key in varied)
    return list(names)


def short_name(key: str, records: Sequence[Record]) -> str:
    """The group a key belongs to where the records choose differently in it, else the key itself."""
    group = key.partition(".")[0]
    if group in ("source", "target", "backbone", "strategy", "objective"):
        if len({record.get(group) for record in records}) > 1:
            return group
        return key
    targets = {
        freeze(record["config"].get(group, {}).get("_target_"))
        for record in records
        if isinstance(record["config"].get(group), Mapping)
    }
    return group if len(targets) > 1 else key


def value_of(record: Record, name: str) -> Any:
    """What a record has under a name of `varied_keys`."""
    if name in ("source", "target", "backbone", "strategy", "objective"):
        return record[name]
    value = setting(record).get(name)
    if value is None and isinstance(record["config"].get(name), Mapping):
        return str(record["config"][name].get("_target_")).rpartition(".")[2]
    return value


def group_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row for each setting among the finished records, in order of appearance.

    A row has `setting` (dict of what varied), `n`, `seeds`, and for `accuracy`, `scratch`, `gain` and `seconds` the
    mean, the sample standard deviation and the half-width of the 95 % t interval of the mean. Records whose
    fingerprints forbid averaging come in rows of their own, with `differs` naming the fingerprint.
    """
    done = [record for record in records if record["status"] == "done"]
    names = varied_keys(done)
    groups: dict[Any, list[Record]] = defaultdict(list)
    for record in done:
        groups[tuple(freeze(value_of(record, name)) for name in names)].append(record)
    rows = []
    for values, members in groups.items():
        parts = split_by_fingerprint(members)
        differs = differing_fingerprints(members) if len(parts) > 1 else []
        rows += [row(dict(zip(names, values, strict=True)), part, differs) for part in parts]
    return rows


def split_by_fingerprint(records: Sequence[Record]) -> list[list[Record]]:
    """Records that may be averaged with each other."""
    parts: dict[Any, list[Record]] = defaultdict(list)
    for record in records:
        parts[tuple(record["fingerprints"].get(name) for name in COMPARABLE)].append(record)
    return list(parts.values())


def differing_fingerprints(records: Sequence[Record]) -> list[str]:
    """Which fingerprints keep the records apart."""
    return [name for name in COMPARABLE if len({record["fingerprints"].get(name) for record in records}) > 1]


def row(values: dict[str, Any], records: Sequence[Record], differs: list[str]) -> dict[str, Any]:
    """Mean, spread and n over records of one setting."""
    return {
        "setting": values,
        "n": len(records),
        "seeds": sorted(record["seed"] for record in records),
        "accuracy": spread([record["metrics"][ACCURACY] for record in records]),
        "scratch": spread(scratch_accuracies(records)),
        "gain": spread([record["transfer"]["gain"] for record in records if record["transfer"]]),
        "seconds": spread([record["cost"]["fit_seconds"] for record in records]),
        "trainable_parameters": max(record["cost"]["trainable_parameters"] for record in records),
        "differs": differs,
    }


def scratch_accuracies(records: Iterable[Record]) -> list[float]:
    """The accuracy of the baseline that each record's gain is over."""
    return [
        record["baselines"][record["transfer"]["baseline"]]["metrics"][ACCURACY]
        for record in records
        if record["transfer"]
    ]


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, sample standard deviation and 95 % t half-width (None and None for a single value); None for no values."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return {"mean": mean, "std": math.nan, "interval": math.nan}
    std = statistics.stdev(values)
    half_width = float(student_t.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))
    return {"mean": mean, "std": std, "interval": half_width}
