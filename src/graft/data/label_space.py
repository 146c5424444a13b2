"""How the classes of a target relate to those of the source that it is adapted from: declared, and checked by name."""

from dataclasses import dataclass
from typing import Literal, Protocol

from graft.errors import UserError, listed

Kind = Literal["closed", "partial", "open"]

MOST_NAMES = 10  # of classes, in an error
RELATION = {
    "closed": "source and target have the same classes",
    "partial": "the target lacks some of the source's classes",
    "open": "the target has classes that the source lacks",
}


class Classes(Protocol):
    """A domain as far as its classes go."""

    name: str | None
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class LabelSpace:
    """What was declared, and the classes that one of the domains has alone."""

    kind: Kind
    source_only: tuple[str, ...]
    target_only: tuple[str, ...]  # the unknown classes


def compare(kind: Kind, source: Classes, target: Classes) -> LabelSpace:
    """The classes of both domains, compared by name, whatever their order.

    "closed": both have the same classes. "partial" (Cao et al., "Partial transfer learning with selective adversarial
    networks", CVPR 2018): the target's are among the source's. "open" (Saito et al., "Open set domain adaptation by
    backpropagation", ECCV 2018): the target has all of the source's classes and others, which are unknown.

    Raises:
        UserError: the classes are not as declared; it names those that are missing.
    """
    source_only = tuple(name for name in source.class_names if name not in target.class_names)
    target_only = tuple(name for name in target.class_names if name not in source.class_names)
    wrong = {
        "closed": bool(source_only or target_only),
        "partial": bool(target_only),
        "open": bool(source_only) or not target_only,
    }
    if wrong[kind]:
        fitting = [other for other in wrong if not wrong[other]]
        lacks = [
            f"{domain.name} lacks {listed(names, MOST_NAMES)}"
            for domain, names in ((target, source_only), (source, target_only))
            if names
        ]
        raise UserError(
            f"label_space={kind} means that {RELATION[kind]}: {'; '.join(lacks) or 'they have the same here'}"
            + (f"; label_space={fitting[0]} allows for that" if fitting else "; no label_space allows for both")
        )
    return LabelSpace(kind, source_only, target_only)
