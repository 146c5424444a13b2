"""A strategy on one network, written out in full: phases of known length, a rule for each layer group."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from re import escape
from typing import Any

from graft.errors import UserError
from graft.models.network import Network
from graft.strategies.phases import Phase, ResolvedPhase, Strategy
from graft.strategies.rules import Assignment, NameTable, expand

Setting = dict[str, float] | None  # of a rule, None: frozen
Key = tuple[float | None, float | None]  # learning-rate scale and weight decay of an assignment
SELECTORS = ("<norm>", r"(.*[._])?bias", r"(.*[._])?bias|<norm>")  # what parts of a layer group are tried to be called


def written_out(strategy: Strategy, name: str, network: Network, max_epochs: int) -> dict[str, Any]:
    """The settings of a strategy called `name` that resolves on this network as `strategy` does, without repetitions.

    Raises:
        UserError: the strategy does not fit the network, or chooses its layer groups by itself.
    """
    if strategy.groups == "auto":
        raise UserError(
            f"strategy {strategy.name!r}: groups=auto are chosen when a stage begins and cannot be written out; "
            "give strategy.groups=[...]"
        )
    names = NameTable.of(network)
    phases = strategy.resolve(network, max_epochs)
    last = phases[-1]
    return {
        "name": name,
        "initialize": strategy.initialize,
        "phases": [_phase(phase, names, phase is last) for phase in phases],
    }


def _phase(phase: ResolvedPhase, names: NameTable, is_last: bool) -> dict[str, Any]:
    until = {"plateau": asdict(phase.plateau)} if phase.plateau else {"epochs": phase.max_epochs}
    resolved = {field.name for field in fields(ResolvedPhase)} - {"name"}
    changed = {
        field.name: getattr(phase, field.name)
        for field in fields(Phase)
        if field.name in resolved and getattr(phase, field.name) != field.default
    }
    return {"name": phase.name, **({} if is_last else {"until": until}), **changed, "rules": _rules(phase, names)}


def _rules(phase: ResolvedPhase, names: NameTable) -> dict[str, Setting]:
    """Pattern and setting of each rule: of mapping and head where they are alike, and of every layer group."""
    members: dict[str, list[Assignment]] = {}
    for entry in phase.assignments:
        members.setdefault(entry.group, []).append(entry)
    ends = [entry for group in ("mapping", "head") for entry in members.pop(group, [])]
    rules: dict[str, Setting] = {}
    if len(set(map(_key, ends))) <= 1:
        # What is solved rather than trained must have a rule too, which says nothing but that.
        rules[r"(mapping|head)\..*"] = _setting(ends[0]) if ends else {"lr_scale": 1.0}
    else:
        members |= {group: [entry for entry in ends if entry.group == group] for group in ("mapping", "head")}
    for group, entries in members.items():
        if entries:
            rules |= dict(_rules_of_group(group, entries, names))
    return rules


def _rules_of_group(group: str, entries: Sequence[Assignment], names: NameTable) -> Iterator[tuple[str, Setting]]:
    """One rule for each setting in a layer group, the last for all that is left."""
    left = {key: [entry for entry in entries if _key(entry) == key] for key in dict.fromkeys(map(_key, entries))}
    while len(left) > 1:
        key, pattern = _next_rule(group, {key: [entry.name for entry in some] for key, some in left.items()}, names)
        yield pattern, _setting(left.pop(key)[0])
    [rest] = left.values()
    yield rf"{escape(group)}\..*", _setting(rest[0])


def _next_rule(group: str, left: dict[Key, list[str]], names: NameTable) -> tuple[Key, str]:
    """A setting and a pattern that takes its names from those `left`: by what they are, else by the fewest names."""
    for selector in SELECTORS:
        pattern = rf"(?={escape(group)}\.)({selector})"
        regex = expand(pattern, names)
        matched = [key for key, some in left.items() for name in some if regex.fullmatch(name)]
        if len(set(matched)) == 1 and len(matched) == len(left[matched[0]]):
            return matched[0], pattern
    fewest = min(left, key=lambda key: len(left[key]))
    return fewest, "|".join(map(escape, left[fewest]))


def _key(entry: Assignment) -> Key:
    return entry.lr_scale, entry.weight_decay


def _setting(entry: Assignment) -> Setting:
    if entry.lr_scale is None:
        return None
    decay = {} if entry.weight_decay is None else {"weight_decay": entry.weight_decay}
    return {"lr_scale": entry.lr_scale, **decay}
