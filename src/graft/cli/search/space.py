"""What a search may choose: Hydra's own words for choices, ranges and intervals, as Optuna's distributions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from graft.cli.overrides import requote
from graft.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution, CategoricalChoiceType

LOG = "log"


@dataclass(frozen=True)
class Space:
    """The overrides that all trials have in common, and those that each trial chooses a value for."""

    fixed: list[str]
    searched: dict[str, Override]  # by what stands before the `=`

    def distributions(self) -> "dict[str, BaseDistribution]":
        """What each value is drawn from.

        Raises:
            UserError: with a line for each override that nothing can be drawn from.
        """
        found, errors = {}, []
        for name, override in self.searched.items():
            try:
                found[name] = distribution(override)
            except UserError as error:
                errors.append(str(error))
        if errors:
            raise UserError("\n".join(errors))
        return found

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of the trial with these values."""
        return [*self.fixed, *own_overrides(params)]

    def corners(self) -> Iterator[list[str]]:
        """Overrides of a few trials in which every choice, and the ends of every range, come up once at least."""
        columns = {name: ends(drawn_from) for name, drawn_from in self.distributions().items()}
        for row in range(max(len(column) for column in columns.values())):
            yield self.overrides({name: column[row % len(column)] for name, column in columns.items()})


def own_overrides(params: Mapping[str, Any]) -> list[str]:
    """The values that a trial chose, as overrides.

    >>> own_overrides({"strategy": "lp_ft", "optimizer.lr": 0.01})
    ['strategy=lp_ft', 'optimizer.lr=0.01']
    """
    return [f"{name}={value}" for name, value in params.items()]


def read_space(loader: ConfigLoader, overrides: Sequence[str], params: Mapping[str, Any]) -> Space:
    """The space that overrides span together with those of a preset; what was typed counts before the preset.

    Args:
        loader: knows the groups, for `glob(...)`.
        overrides: of the task, as typed.
        params: `hydra.sweeper.params`: key -> what would stand behind its `=`.

    Raises:
        UserError: there is nothing to search.
    """
    parser = OverridesParser.create(config_loader=loader)
    typed = parser.parse_overrides(list(overrides))
    preset = parser.parse_overrides(requote(loader, [f"{name}={value}" for name, value in params.items()]))
    taken = {item.get_key_element().lstrip("+~") for item in typed}
    items = [*(item for item in preset if item.get_key_element().lstrip("+") not in taken), *typed]
    space = Space(
        [text for item in items if not item.is_sweep_override() and (text := item.input_line)],
        {item.get_key_element(): item for item in items if item.is_sweep_override()},
    )
    if not space.searched:
        raise UserError("nothing to search; give a key several values, as in optimizer.lr=interval(1e-4,1e-2)")
    return space


def distribution(override: Override) -> "BaseDistribution":
    """What the values of an override are drawn from.

    Choices are kept as they are typed; a range is without its end, as everywhere in Hydra; an interval holds
    both its ends, and whole numbers alone where it is `int(interval(1,8))`.

    Raises:
        UserError: nothing can be drawn from it.
    """
    value: Any = override.value()
    if getattr(value, "shuffle", False):
        raise UserError(f"{override.input_line}: a search has an order of its own; leave shuffle out")
    kind = next((kind for kind in MAKE if isinstance(value, kind)), None)
    made = MAKE[kind](value) if kind else categorical(override)
    if isinstance(made, str):
        raise UserError(f"{override.input_line}: {made}")
    return made


def categorical(override: Override) -> "BaseDistribution | str":
    """Any of the choices, or what is wrong with them."""
    from optuna.distributions import CategoricalDistribution

    texts: list[CategoricalChoiceType] = [*dict.fromkeys(override.sweep_string_iterator())]
    return CategoricalDistribution(texts) if texts else "no choice at all"


def numeric_range(value: RangeSweep) -> "BaseDistribution | str":
    """Any number of a range, or what is wrong with it."""
    from optuna.distributions import FloatDistribution, IntDistribution

    if value.tags:
        return unknown_tags(value.tags)
    numbers = sorted(value.range())
    if not numbers:
        return "an empty range"
    if isinstance(numbers[0], int):
        return IntDistribution(numbers[0], numbers[-1], step=abs(int(value.step)))
    return FloatDistribution(numbers[0], numbers[-1], step=abs(float(value.step)))


def interval(value: IntervalSweep) -> "BaseDistribution | str":
    """Any number of an interval, or what is wrong with it."""
    from optuna.distributions import FloatDistribution, IntDistribution

    low, high, log = value.start, value.end, LOG in value.tags
    assert low is not None
    assert high is not None
    if value.tags - {LOG}:
        return unknown_tags(value.tags - {LOG})
    if low > high:
        return f"expected an interval from low to high, not from {low} to {high}"
    if log and low <= 0:
        return f"tag(log, ...) needs an interval above 0, not from {low}"
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


MAKE: dict[type, Callable[[Any], Any]] = {RangeSweep: numeric_range, IntervalSweep: interval}


def unknown_tags(tags: set[str]) -> str:
    """What to say of tags that mean nothing here."""
    return f"tag({', '.join(sorted(tags))}, ...) means nothing to a search; tag(log, interval(...)) does"


def ends(drawn_from: "BaseDistribution") -> list[Any]:
    """All choices, or the lowest and the highest number."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(drawn_from, CategoricalDistribution):
        return list(drawn_from.choices)
    assert isinstance(drawn_from, IntDistribution | FloatDistribution)
    return [drawn_from.low, drawn_from.high]
