r"""Ordered tables that say of every parameter whether and how it is trained.

A rule is a pattern and a setting; the first rule whose pattern matches a parameter's whole name decides. Names read
`backbone.<group>.<path>`, `mapping.<path>` and `head.<path>`. Patterns are regular expressions in which angle brackets
select by what a name cannot tell:

    <-1>  <0>  <-2:>  <:3>    layer groups of the backbone by position, from input to output, as Python indexes them
    <i>  <i:>  <i+1:>         the same relative to the group a repeated phase has come to
    <norm>                    every parameter that a normalisation layer owns
    <groups>                  the layer groups that the strategy's `groups` names, or chooses

so that 'backbone\.<-1>\..*' is the last layer group, and '(?=backbone\.)<norm>' the backbone's normalisation layers.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from graft.errors import UserError, did_you_mean
from graft.models.network import Network

_SELECTOR = re.compile(r"(?<!\(\?)(?<!\(\?P)<([^<>]*)>")
_BOUND = r"-?\d+|i(?:[+-]\d+)?"
_POSITION = re.compile(rf"(?P<index>{_BOUND})|(?P<start>{_BOUND})?:(?P<stop>{_BOUND})?")
_TORCH_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NORM_NAME = re.compile(r"norm(act)?(\dd)?$", re.IGNORECASE)


class Assignment(NamedTuple):
    """What one phase does with one parameter."""

    name: str  # backbone.<group>.<path>, mapping.<path> or head.<path>
    group: str  # backbone.<group>, mapping or head
    lr_scale: float | None  # factor on the optimiser's learning rate; None: frozen
    weight_decay: float | None  # None: the optimiser's own


@dataclass(frozen=True)
class Rule:
    """A pattern and how the parameters it matches are trained."""

    pattern: str
    frozen: bool = False
    lr_scale: float = 1.0
    weight_decay: float | None = None  # None: the optimiser's own
    layer_decay: float = 1.0  # further factor on the learning rate for each layer group between parameter and head
    min_scale: float = 0.0  # the least that layer_decay's factors come to (timm's param_groups_layer_decay)
    first_scale: float = 1.0  # factor for the first layer group; those up to the head lie between in even ratios

    def __post_init__(self) -> None:
        if not (_is_number(self.lr_scale) and 0 < self.lr_scale < math.inf):
            raise self._error("lr_scale", "a number above 0 (null in place of the settings freezes)")
        if not (_is_number(self.layer_decay) and 0 < self.layer_decay <= 1):
            raise self._error("layer_decay", "a number above 0 and at most 1")
        if not (_is_number(self.first_scale) and 0 < self.first_scale <= 1):
            raise self._error("first_scale", "a number above 0 and at most 1")
        if not (_is_number(self.min_scale) and 0 <= self.min_scale <= 1):
            raise self._error("min_scale", "a number from 0 to 1")
        if self.min_scale and self.layer_decay == 1:
            raise self._error("min_scale", "a layer_decay below 1 beside it")
        if self.weight_decay is not None and not (_is_number(self.weight_decay) and 0 <= self.weight_decay < math.inf):
            raise self._error("weight_decay", "a number from 0 on, or null for the optimiser's")
        try:
            re.compile(_SELECTOR.sub("x", self.pattern))
        except re.error as error:
            raise UserError(f"rule '{self.pattern}' is not a regular expression: {error}") from None

    def _error(self, key: str, expected: str) -> UserError:
        return UserError(f"rule '{self.pattern}': {key}={getattr(self, key)!r}; expected {expected}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def parse_rules(table: Mapping[str, Mapping[str, Any] | None]) -> tuple[Rule, ...]:
    """Rules from `pattern: {lr_scale, weight_decay, ...}` (train) and `pattern: null` (freeze), in order."""
    if not isinstance(table, Mapping) or not table:
        raise UserError(f"rules={table!r}; expected at least one 'pattern: {{...}}' or 'pattern: null'")
    return tuple(_parse_rule(str(pattern), setting) for pattern, setting in table.items())


def _parse_rule(pattern: str, setting: Mapping[str, Any] | None) -> Rule:
    if setting is None:
        return Rule(pattern, frozen=True)
    if not isinstance(setting, Mapping):
        raise UserError(f"rule '{pattern}': {setting!r}; expected null (frozen) or {{lr_scale: 1}} (trained)")
    keys = ("lr_scale", "weight_decay", "layer_decay", "min_scale", "first_scale")
    for key in setting:
        if key not in keys:
            raise UserError(f"rule '{pattern}': unknown key {key!r}; {did_you_mean(str(key), keys)}")
    return Rule(pattern, **{str(key): value for key, value in setting.items()})


def is_norm(module: nn.Module) -> bool:
    """Whether `module` is a normalisation layer, of torch or of another library."""
    if isinstance(module, _TORCH_NORMS):
        return True
    return not any(module.children()) and _NORM_NAME.search(type(module).__name__) is not None


def has_statistics(module: nn.Module) -> bool:
    """Whether `module` is a normalisation layer that keeps running statistics."""
    return is_norm(module) and getattr(module, "running_mean", None) is not None


@dataclass(frozen=True)
class NameTable:
    """The names of a network that patterns are matched against."""

    parameters: tuple[tuple[str, str], ...]  # (name, group), in order
    solved: tuple[str, ...]  # names of what is computed in closed form: matched, never trained
    backbone_groups: tuple[str, ...]  # without the prefix "backbone."
    norm: tuple[str, ...]  # the parameters that normalisation layers own
    has_statistics: bool = False  # whether any of these layers keeps running statistics
    fixed: frozenset[str] = frozenset()  # parameters that an adapter keeps as they are, whatever the rules say
    undecayed: frozenset[str] = frozenset()  # parameters of an adapter without weight decay unless a rule gives one
    adapter: str | None = None  # what that adapter is called
    chosen: tuple[str, ...] = ()  # layer groups that <groups> stands for, without the prefix

    @classmethod
    def of(cls, network: Network) -> "NameTable":
        """The table of one network."""
        # By identity, because a layer group may present modules under other paths than the tree does.
        owned = {id(p) for module in network.modules() if is_norm(module) for p in module.parameters(recurse=False)}
        parameters = network.named_group_parameters()
        adaptation = network.backbone.adaptation
        return cls(
            parameters=tuple((name, group) for name, group, _ in parameters),
            solved=tuple(network.solved_names()),
            backbone_groups=tuple(
                group.removeprefix("backbone.") for group in network.named_groups() if group.startswith("backbone.")
            ),
            norm=tuple(name for name, _, parameter in parameters if id(parameter) in owned),
            has_statistics=any(has_statistics(module) for module in network.backbone.modules()),
            fixed=network.fixed_names,
            undecayed=frozenset(f"backbone.{name}" for name in adaptation.undecayed) if adaptation else frozenset(),
            adapter=adaptation.adapter.name if adaptation else None,
        )

    @property
    def has_biases(self) -> bool:
        """Whether the backbone does."""
        return any(name.endswith("bias") for name, group in self.parameters if group.startswith("backbone."))

    @property
    def adapter_parameters(self) -> tuple[tuple[str, str], ...]:
        """(name, layer group) of what an adapter brought, the group without its prefix; empty without one."""
        if self.adapter is None:
            return ()
        of_backbone = [(name, group) for name, group in self.parameters if group.startswith("backbone.")]
        return tuple((name, group.removeprefix("backbone.")) for name, group in of_backbone if name not in self.fixed)

    def distance_to_head(self, group: str) -> int:
        """0 for head and mapping, 1 for the backbone's last layer group, and so on down to its first."""
        if not group.startswith("backbone."):
            return 0
        return len(self.backbone_groups) - self.backbone_groups.index(group.removeprefix("backbone."))


def expand(pattern: str, names: NameTable, position: int | None = None) -> re.Pattern[str]:
    """The regular expression that `pattern` stands for on this network; `position` is the value of `i`."""

    def replace(match: re.Match[str]) -> str:
        return _alternatives(_select(match.group(1), pattern, names, position))

    return re.compile(_SELECTOR.sub(replace, pattern))


def _alternatives(choices: Sequence[str]) -> str:
    return f"(?:{'|'.join(re.escape(choice) for choice in choices)})" if choices else "(?!)"


def _select(selector: str, pattern: str, names: NameTable, position: int | None) -> Sequence[str]:
    if selector == "norm":
        return names.norm
    if selector == "groups":
        if not names.chosen:
            raise UserError(f"rule '{pattern}': <groups> needs the strategy's groups, such as groups: [-1]")
        return names.chosen
    match = _POSITION.fullmatch(selector)
    if match is None:
        raise UserError(
            f"rule '{pattern}': <{selector}> selects nothing; expected <norm>, <groups> or a position such as <-1>"
        )
    if "i" in selector and position is None:
        raise UserError(f"rule '{pattern}': <{selector}> has a meaning only in a phase with repeat: last_to_first")
    if match["index"] is None:
        start, stop = (_bound(match[end], position) for end in ("start", "stop"))
        return names.backbone_groups[start:stop]
    index = _bound(match["index"], position)
    assert index is not None
    num_groups = len(names.backbone_groups)
    if not -num_groups <= index < num_groups:
        groups = ", ".join(names.backbone_groups)
        raise UserError(
            f"rule '{pattern}': <{selector}> is outside the backbone's {num_groups} layer groups ({groups})"
        )
    return names.backbone_groups[index : index + 1 or None]


def _bound(text: str | None, position: int | None) -> int | None:
    if text is None:
        return None
    if text.startswith("i"):
        assert position is not None
        return position + int(text[1:] or 0)
    return int(text)


def assign(
    rules: Sequence[Rule], names: NameTable, position: int | None = None
) -> tuple[tuple[Assignment, ...], frozenset[str]]:
    """What the rules do with every parameter, and the patterns that decided something.

    Raises:
        UserError: a parameter that no pattern matches, or a selector with no meaning on this network.
    """
    compiled = [(expand(rule.pattern, names, position), rule) for rule in rules]

    def decide(name: str) -> Rule | None:
        return next((rule for regex, rule in compiled if regex.fullmatch(name)), None)

    decisions = [(name, group, decide(name)) for name, group in names.parameters]
    uncovered = [name for name, _, rule in decisions if rule is None]
    if uncovered:
        others = f" (and {len(uncovered) - 1} more)" if len(uncovered) > 1 else ""
        raise UserError(f"no rule for {uncovered[0]}{others}; a last rule '.*': null keeps all the rest frozen")
    assignments = tuple(_apply(rule, name, group, names) for name, group, rule in decisions if rule is not None)
    deciding = [rule for *_, rule in decisions] + [decide(name) for name in names.solved]
    return assignments, frozenset(rule.pattern for rule in deciding if rule is not None)


def _apply(rule: Rule, name: str, group: str, names: NameTable) -> Assignment:
    if rule.frozen or name in names.fixed:
        return Assignment(name, group, None, None)
    distance = names.distance_to_head(group)
    decay = max(rule.min_scale, rule.layer_decay**distance)
    lr_scale = rule.lr_scale * decay * rule.first_scale ** (distance / len(names.backbone_groups))
    weight_decay = 0.0 if rule.weight_decay is None and name in names.undecayed else rule.weight_decay
    return Assignment(name, group, lr_scale, weight_decay)


def check_no_idle_rule(rules: Sequence[Rule], deciding: frozenset[str], names: NameTable) -> None:
    """Raise UserError for a rule that decides about nothing, with the nearest names of layer groups."""
    for index, rule in enumerate(rules):
        # <groups> may be all there are, and leave nothing to the rules after it.
        if rule.pattern in deciding or any("<groups>" in earlier.pattern for earlier in rules[:index]):
            continue
        if "<norm>" in rule.pattern and not names.norm:
            raise UserError(f"rule '{rule.pattern}': this network has no normalisation layers")
        if rule.pattern.endswith("bias") and not names.has_biases:
            raise UserError(f"rule '{rule.pattern}': this backbone has no biases; use strategy=linear_probe")
        regex = expand(rule.pattern, names, position=0)
        if any(regex.fullmatch(name) for name, _ in names.parameters):
            if rule.frozen and len(names.backbone_groups) == 1:
                continue  # the one layer group is all of the backbone: it is thawed at once, and no rest stays frozen
            raise UserError(f"rule '{rule.pattern}' decides about no parameter: earlier rules take all that it matches")
        plain = re.sub(r"\.\*|[\\()^$*+?]", "", rule.pattern).strip(".")
        groups = [*(f"backbone.{group}" for group in names.backbone_groups), "mapping", "head"]
        raise UserError(f"rule '{rule.pattern}' decides about no parameter; {did_you_mean(plain, groups)}")
