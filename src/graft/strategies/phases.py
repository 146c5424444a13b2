"""Strategies: phases that follow one another, each with its table of rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from graft.errors import UserError, did_you_mean
from graft.models.network import Network
from graft.strategies.durations import Plateau, Until, divide, lay_out, parse_until
from graft.strategies.rules import Assignment, NameTable, Rule, assign, check_no_idle_rule, parse_rules


@dataclass(frozen=True)
class Phase:
    """One line of a strategy, as it was written."""

    name: str
    rules: tuple[Rule, ...]
    until: Until | None = None  # None: the rest of the stage
    restart: bool = False  # begin with a fresh optimiser and schedule
    augment: bool = True
    # Of normalisation layers: "follow": of the batch, and re-estimated, where the layer is trained; "eval": fixed
    # everywhere; "train": of the batch, and re-estimated, everywhere, in frozen layer groups too.
    norm_statistics: str = "follow"
    recalibrate: bool = False  # begin with running statistics of the training images (AdaBN; Li et al. 2017)
    start_from: str = "last"  # weights and optimiser of the last epoch of the phase before, or of its "best"
    repeat: str | None = None  # "last_to_first": once for each layer group of the backbone
    max_repeats: int | None = None  # at most so often: several layer groups at a time

    def __post_init__(self) -> None:
        _check_choice("norm_statistics", self.norm_statistics, ("follow", "eval", "train"))
        _check_choice("start_from", self.start_from, ("last", "best"))
        _check_choice("repeat", self.repeat, (None, "last_to_first"))
        for key in ("restart", "augment", "recalibrate"):
            _check_choice(key, getattr(self, key), (True, False))
        if self.max_repeats is not None and (type(self.max_repeats) is not int or self.max_repeats < 1):
            raise UserError(f"max_repeats={self.max_repeats!r}; expected a whole number from 1 on, or null")
        if self.max_repeats is not None and self.repeat is None:
            raise UserError(f"max_repeats={self.max_repeats}; it needs repeat: last_to_first")

    def positions(self, num_groups: int) -> list[int | None]:
        """The values of `i` that the phase runs through: the first of each run of layer groups, last run first.

        >>> Phase("thaw", (), repeat="last_to_first", max_repeats=2).positions(num_groups=5)
        [2, 0]
        """
        if self.repeat is None:
            return [None]
        num_repeats = min(num_groups, self.max_repeats or num_groups)
        return [num_groups * step // num_repeats for step in reversed(range(num_repeats))]


def _check_choice(key: str, value: object, choices: tuple[object, ...]) -> None:
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        words = ["null" if choice is None else str(choice).lower() for choice in choices]
        raise UserError(f"{key}={value!r}; expected {' or '.join(words)}")


def parse_phase(setting: Mapping[str, Any] | Phase, index: int) -> Phase:
    """A phase from the plain mapping of a YAML file; errors say which phase they are about."""
    if isinstance(setting, Phase):
        return setting
    if not isinstance(setting, Mapping):
        raise UserError(f"phase {index}: {setting!r}; expected a mapping with the keys name and rules")
    keys = tuple(Phase.__dataclass_fields__)
    values = {str(key): value for key, value in setting.items()}
    where = f"phase {values.get('name', index)!r}"
    for key in values:
        if key not in keys:
            raise UserError(f"{where}: unknown key {key!r}; {did_you_mean(key, keys)}")
    for key in ("name", "rules"):
        if values.get(key) is None:
            raise UserError(f"{where}: {key} is missing")
    try:
        rules, until = parse_rules(values.pop("rules")), parse_until(values.pop("until", None))
        return Phase(name=str(values.pop("name")), rules=rules, until=until, **values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


@dataclass(frozen=True)
class ResolvedPhase:
    """A phase on one network and a known number of epochs."""

    index: int
    name: str
    first_epoch: int  # of the stage
    max_epochs: int  # fewer where a plateau comes earlier
    plateau: Plateau | None
    restart: bool
    augment: bool
    norm_statistics: str
    assignments: tuple[Assignment, ...]  # one for each parameter, in the network's order
    open_ended: bool = False  # its epochs are a share of what the phases of fixed length leave
    recalibrate: bool = False
    start_from: str = "last"

    @property
    def trained_names(self) -> frozenset[str]:
        """Names of the parameters that are trained; empty where the phase only solves a closed form."""
        return frozenset(entry.name for entry in self.assignments if entry.lr_scale is not None)

    @property
    def trained_groups(self) -> tuple[str, ...]:
        """Layer groups with a trained parameter, from input to output."""
        return tuple(dict.fromkeys(entry.group for entry in self.assignments if entry.lr_scale is not None))


@dataclass(frozen=True)
class Strategy:
    """What is trained when.

    Raises:
        UserError: an unknown key, a value out of range, or a last phase that does not take the rest.
    """

    name: str
    phases: Sequence[Mapping[str, Any] | Phase]  # as in conf/strategy/*.yaml
    initialize: str = "source"  # "source": the backbone's weights are those of the source; "scratch": random
    # What <groups> stands for: layer groups by name or position, or "auto": the one with the largest gradient relative
    # to its weights as the stage begins (Lee et al., ICLR 2023).
    groups: Sequence[str | int] | Literal["auto"] = ()
    norm_statistics: str | None = None  # of all phases, whatever each says for itself
    parsed: tuple[Phase, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            _check_choice("initialize", self.initialize, ("source", "scratch"))
            parsed = tuple(parse_phase(setting, index) for index, setting in enumerate(self.phases))
            _check_ends(parsed)
            _check_groups(self.groups, parsed)
            if self.norm_statistics is not None:
                parsed = tuple(replace(phase, norm_statistics=self.norm_statistics) for phase in parsed)
        except UserError as error:
            raise UserError(f"strategy {self.name!r}: {error}") from None
        object.__setattr__(self, "parsed", parsed)

    def resolve(self, network: Network, max_epochs: int) -> tuple[ResolvedPhase, ...]:
        """The phases on this network: repeated ones expanded, rules applied, epochs divided. Touches nothing.

        A plateau phase gets an even share of what the phases of fixed length leave; `replan` hands on what it did not
        use. `groups: auto` that is not chosen yet stands for the first layer group
        that has something to train.

        Raises:
            UserError: a parameter without a rule, a rule without a parameter, fewer epochs than the phases need, or an
                adapter that no phase trains.
        """
        try:
            names = NameTable.of(network)
            first = names.adapter_parameters[0][1] if names.adapter_parameters else 0
            wanted: Sequence[str | int] = (first,) if self.groups == "auto" else self.groups
            chosen = tuple(_group_name(group, names.backbone_groups) for group in wanted)
            return self._resolve(replace(names, chosen=chosen), max_epochs)
        except UserError as error:
            raise UserError(f"strategy {self.name!r}: {error}") from None

    def _resolve(self, names: NameTable, max_epochs: int) -> tuple[ResolvedPhase, ...]:
        expanded = [item for phase in self.parsed for item in _expand(phase, names)]
        # Whatever the last repetition says of its own end, the stage ends with it.
        untils = [*(phase.until for phase, _, _ in expanded[:-1]), None]
        epochs = divide(untils, max_epochs)
        spans = lay_out(epochs, 0, max_epochs)
        phases = tuple(
            ResolvedPhase(
                index=index,
                name=name,
                first_epoch=first_epoch,
                max_epochs=count,
                plateau=until if isinstance(until, Plateau) else None,
                restart=phase.restart,
                augment=phase.augment,
                norm_statistics=phase.norm_statistics,
                assignments=assignments,
                open_ended=epochs[index] is None,
                recalibrate=phase.recalibrate,
                start_from=phase.start_from if index else "last",
            )
            for index, ((phase, name, assignments), until, (first_epoch, count)) in enumerate(
                zip(expanded, untils, spans, strict=True)
            )
        )
        _check_adapter(phases, names)
        return phases


def _check_ends(phases: tuple[Phase, ...]) -> None:
    if not phases:
        raise UserError("phases is empty; expected at least one")
    *others, last = phases
    for phase in others:
        if phase.until is None:
            raise UserError(f"phase {phase.name!r}: until is missing; only the last phase takes the rest")
    if phases[0].start_from == "best" and phases[0].repeat is None:
        raise UserError(f"phase {phases[0].name!r}: start_from=best; there is no phase before the first")
    if last.repeat is None and last.until is not None:
        raise UserError(f"phase {last.name!r}: the last phase takes the rest; leave its until out")
    if last.repeat is not None and last.until is None:
        raise UserError(f"phase {last.name!r}: it is repeated; until must say how long each repetition lasts")


def _check_adapter(phases: Sequence[ResolvedPhase], names: NameTable) -> None:
    brought = {name for name, _ in names.adapter_parameters}
    if brought and not any(phase.trained_names & brought for phase in phases):
        groups = dict.fromkeys(group for _, group in names.adapter_parameters)
        raise UserError(
            f"it trains nothing that adapter={names.adapter} brings (in {', '.join(groups)}); use another strategy, "
            "such as fine_tune, or adapter=none"
        )


def _check_groups(groups: object, phases: tuple[Phase, ...]) -> None:
    used = any("<groups>" in rule.pattern for phase in phases for rule in phase.rules)
    is_list = isinstance(groups, Sequence) and not isinstance(groups, str)
    if groups != "auto" and not (is_list and all(type(group) in (str, int) for group in groups)):  # type: ignore[attr-defined]
        raise UserError(f"groups={groups!r}; expected layer groups by name or position, such as [-1], or auto")
    if groups and not used:
        raise UserError(f"groups={groups!r}: no rule speaks of <groups>")
    if used and not groups:
        raise UserError("groups is empty; expected the layer groups that <groups> stands for, such as [-1], or auto")


def _group_name(group: str | int, names: Sequence[str]) -> str:
    if isinstance(group, str):
        if group not in names:
            raise UserError(f"groups: the backbone has no layer group {group!r}; {did_you_mean(group, names)}")
        return group
    if not -len(names) <= group < len(names):
        raise UserError(f"groups: {group} is outside the backbone's {len(names)} layer groups ({', '.join(names)})")
    return names[group]


def _expand(phase: Phase, names: NameTable) -> list[tuple[Phase, str, tuple[Assignment, ...]]]:
    """(phase, name, assignments) for each repetition; a rule may be idle in some of them, not in all."""
    try:
        results = [(i, *assign(phase.rules, names, i)) for i in phase.positions(len(names.backbone_groups))]
        deciding = frozenset().union(*(patterns for _, _, patterns in results))
        check_no_idle_rule(phase.rules, deciding, names)
        _check_statistics(phase, names)
    except UserError as error:
        raise UserError(f"phase {phase.name!r}: {error}") from None
    return [(phase, _phase_name(phase, names, i), assignments) for i, assignments, _ in results]


def _check_statistics(phase: Phase, names: NameTable) -> None:
    asked = "recalibrate=true" if phase.recalibrate else "norm_statistics=train"
    if (phase.recalibrate or phase.norm_statistics == "train") and not names.has_statistics:
        raise UserError(f"{asked}: this backbone has no normalisation layers with running statistics")


def _phase_name(phase: Phase, names: NameTable, position: int | None) -> str:
    return phase.name if position is None else phase.name.replace("{group}", names.backbone_groups[position])


def replan(phases: Sequence[ResolvedPhase], index: int, first_epoch: int) -> tuple[ResolvedPhase, ...]:
    """The same phases with those from `index` on moved to begin at `first_epoch`, after a plateau came early.

    Phases of fixed length keep it; the open-ended ones share the epochs that were gained. The stage ends when it did.
    """
    if index == len(phases):
        return tuple(phases)
    max_epochs = phases[-1].first_epoch + phases[-1].max_epochs
    coming = phases[index:]
    spans = lay_out([None if phase.open_ended else phase.max_epochs for phase in coming], first_epoch, max_epochs)
    moved = [replace(phase, first_epoch=at, max_epochs=count) for phase, (at, count) in zip(coming, spans, strict=True)]
    return (*phases[:index], *moved)
