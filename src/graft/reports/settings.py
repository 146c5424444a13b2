"""What makes one run another experiment than the next: its configuration, without where it writes and its seeds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graft.records.record import NOT_IDENTITY

Record = Mapping[str, Any]

SEEDS = ("seed", "pretrain.seed", "source.split_seed", "target.split_seed")
ABSENT = "–"  # shown where a run's configuration lacks a key that others have


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys; lists stay whole.

    >>> flatten({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    if not (isinstance(value, Mapping) and value):
        return {prefix.removesuffix("."): value}
    return {name: leaf for key, item in value.items() for name, leaf in flatten(item, f"{prefix}{key}.").items()}


def setting(record: Record) -> dict[str, str]:
    """The configuration that a run shares with its repetitions under other seeds: dotted key -> value as text.

    As text because the order of a strategy's rules counts, and because 1, 1.0 and true are different limits.
    """
    return settings_by_id([record])[id(record)]


def settings_by_id(records: Iterable[Record]) -> dict[int, dict[str, str]]:
    """The `setting` of each record, by the record's id.

    Thousands of records choose the same in most groups; where that is one object in memory, it is looked at once.
    """
    known: dict[tuple[str, int], dict[str, str]] = {}
    found: dict[int, dict[str, str]] = {}
    for record in records:
        leaves = found[id(record)] = {}
        for group, value in record["config"].items():
            place = group, id(value)
            if place not in known:
                known[place] = _leaves(group, value)
            leaves |= known[place]
    return found


def _leaves(group: str, value: Any) -> dict[str, str]:
    """What `setting` says of one group."""
    left_out = (*NOT_IDENTITY, *SEEDS)
    return {
        key: repr(leaf)
        for key, leaf in flatten(value, f"{group}.").items()
        if not any(key == name or key.startswith(f"{name}.") for name in left_out)
    }


def seeds(record: Record) -> tuple[Any, ...]:
    """The values of everything that is a seed of the run."""
    return (record["seed"], *(leaf(record, name) for name in SEEDS))


def leaf(record: Record, name: str, absent: Any = None) -> Any:
    """The value of a dotted key in a record's configuration."""
    node = record["config"]
    for key in name.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return absent
        node = node[key]
    return absent if isinstance(node, Mapping) and node else node


def varied_keys(records: Sequence[Record], settings: Sequence[Mapping[str, str]] | None = None) -> list[str]:
    """The names that tell the records' settings apart, in the order of the configuration.

    Where records choose differently in a group, the group's name stands for all that comes with the choice; a key of
    the group is named beside it only where it differs between records of the same choice. A key that repeats another
    one's values is left out. `settings` are those of the records (`setting`) where they are known.

    >>> a = {"config": {"strategy": {"name": "scratch", "phases": [1]}, "optimizer": {"lr": 1}}}
    >>> b = {"config": {"strategy": {"name": "lp_ft", "phases": [2]}, "optimizer": {"lr": 1}}}
    >>> varied_keys([a, b])
    ['strategy']
    """
    settings = [setting(record) for record in records] if settings is None else settings
    names: dict[str, None] = {}
    columns: set[tuple[Any, ...]] = set()
    choices: dict[str, tuple[str | None, ...]] = {}
    for key in dict.fromkeys(key for flat in settings for key in flat):
        column = tuple([flat.get(key) for flat in settings])
        if len(set(column)) == 1:
            continue
        group = key.partition(".")[0]
        if group not in choices:
            choices[group] = tuple(choice(record, group) for record in records)
        num_choices = len(set(choices[group]))
        if num_choices > 1:
            names[group] = None
        told_apart = len(set(zip(choices[group], column, strict=True))) > num_choices
        if told_apart and column not in columns:
            names[key] = None
            columns.add(column)
    return list(names)


def choice(record: Record, group: str) -> str | None:
    """What the record chose in a group: its `name`, or the names of its parts, else its class; None for a key.

    A part of the network without a name has that of its module, which is that of its option.
    """
    options = record["config"].get(group)
    if not isinstance(options, Mapping):
        return None
    if all(isinstance(part, Mapping) and "_target_" in part for part in options.values()):  # several parts by name
        return "+".join(options) or "none"
    module, _, name = str(options.get("_target_")).rpartition(".")
    return str(options.get("name") or (module.rpartition(".")[2] if module.startswith("graft.models.") else name))


def value_of(record: Record, name: str) -> str:
    """What a record has under a name of `varied_keys`, as one would type it."""
    chosen = choice(record, name)
    if chosen is not None:
        return chosen
    value = leaf(record, name, ABSENT)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each dotted name's last part, or the whole name where the last part is not unique.

    >>> short_names(["strategy", "target.labels_per_class", "optimizer.lr", "pretrain.optimizer.lr"])["optimizer.lr"]
    'optimizer.lr'
    """
    last = {name: name.rpartition(".")[2] for name in names}
    return {name: part if list(last.values()).count(part) == 1 else name for name, part in last.items()}
