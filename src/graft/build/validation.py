"""All that is wrong with a configuration, found before anything is built from it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from graft.adaptation.open_set import Confidence
from graft.build.checks import check_all
from graft.build.remember import remembered
from graft.build.targets import SPECIAL, arguments_of, check_target, is_missing, missing_inside
from graft.build.values import describe, fits
from graft.data.label_space import Kind
from graft.errors import UserError, did_you_mean
from graft.scores.base import INPUTS


@dataclass(frozen=True)
class Part:
    """A node with a `_target_`."""

    supplied: tuple[str, ...] = ()  # arguments that the program passes itself
    ours: tuple[str, ...] = ()  # keys that `build` reads and does not pass on
    optional: bool = False  # `_target_: null` switches it off
    automatic: tuple[str, ...] = ()  # arguments that may be "auto", for which the program finds a value


OPTIMIZER = Part(supplied=("params",), automatic=("lr",))
TRAINER = Part(
    supplied=(
        "callbacks",
        "logger",
        "plugins",
        "precision",
        "default_root_dir",
        "enable_checkpointing",
        "enable_progress_bar",
        "enable_model_summary",
        "num_sanity_val_steps",
        "use_distributed_sampler",
    )
)
SCORE = Part(supplied=INPUTS)
LOGGER = Part(supplied=("place",))
Precision = Literal["auto", "32", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"]
STAGE = {"strategy": Part(), "objective": Part(), "optimizer": OPTIMIZER, "scheduler": Part()}
PARTS = {
    "source": Part(optional=True),
    "target": Part(),
    "backbone": Part(ours=("weights", "reinitialise")),
    "head": Part(supplied=("num_features", "num_classes")),
    "mapping": Part(supplied=("num_features",)),
    "adapter": Part(optional=True),
    **STAGE,
    "trainer": TRAINER,
}
SETTINGS: dict[str, Any] = {
    "name": str | None,
    "seed": int,
    "label_space": Kind,
    "unknown": dict,
    "selection": dict,
    "precision": dict,
    "memory_format": Literal["contiguous", "channels_last", "auto"] | None,
    "callbacks": dict[str, dict],
    "logger": dict[str, dict],
    "after": dict[str, dict],
    "baselines": dict[str, dict],
    "regulariser": dict[str, dict],
    "adaptation": dict[str, dict],
    "paths": dict,
    "checkpoints": dict,
    "features": dict,
    "analysis": dict,
    "sweep": dict,
    "pretrain": dict,
}
INSIDE: dict[str, dict[str, Any]] = {
    "precision": {"value": Precision},
    "paths": {"data": str, "outputs": str, "store": str},
    "checkpoints": {"every_minutes": float},
    "features": {"cache_limit_gib": float, "augmented_views": int},
    "unknown": {"confidence": Confidence, "threshold": float},
    "analysis": {
        "cka_images": int,
        "feature_images": int | None,
        "projector_images": int,
        "plot_every": int,
        "projection": Literal["pca", "tsne"],
    },
    "selection": {"rule": str, "images": int, "every": int, "oracle": bool},
    "sweep": {"name": str | None, "fail_fast": bool, "retries": int},
    "pretrain": {"max_epochs": int, "seed": int},
    "backbone": {"weights": str, "reinitialise": list[str]},
}


def validate(config: dict[str, Any]) -> list[str]:
    """Every error in a plain configuration, a line each; empty where it can be built.

    Signatures and types are checked first; then whether those parts go together whose signatures and types are sound.
    """
    errors = list(dict.fromkeys(_structure(config)))
    broken = {re.split(r"[.:=]", error)[0] for error in errors}
    return [*errors, *check_all(config, broken)]


def validate_scores(nodes: dict[str, dict[str, Any]]) -> list[str]:
    """Every error in the plain configurations of transferability scores, by name."""
    return [error for name, node in nodes.items() for error in _part(f"score/{name}", node, SCORE)]


def validate_target(node: dict[str, Any]) -> list[str]:
    """Every error in the plain configuration of a target by itself."""
    return _part("target", node, PARTS["target"])


def _structure(config: dict[str, Any]) -> Iterator[str]:
    known = PARTS.keys() | SETTINGS.keys()
    for name in (key for key in config if key not in known):
        yield f"{name}: no such key; {did_you_mean(name, known)}"
    for name in sorted(known - config.keys()):
        yield f"{name}: is missing"
    for name, part in PARTS.items():
        if name in config:
            yield from _part(name, config[name], part)
    yield from _settings("", config, SETTINGS)
    for name, inner in INSIDE.items():
        if isinstance(config.get(name), dict):
            yield from _settings(f"{name}.", config[name], inner)
    yield from _parts_of_source(config)
    yield from _groups_of_parts(config)


def _parts_of_source(config: dict[str, Any]) -> Iterator[str]:
    for name, node in _mapping(_mapping(config.get("source")).get("parts")).items():
        yield from _part(f"source.parts.{name}", node, Part())
    if "parts" in _mapping(config.get("target")):
        yield f"target={config['target'].get('name')}: several data sets are no target; choose one"


def _part(path: str, node: Any, part: Part) -> list[str]:
    """What is wrong with one part; the jobs of a sweep have most of them in common."""
    return remembered(f"part {path} {part}", node, lambda: list(_errors_in_part(path, node, part)))


def _errors_in_part(path: str, node: Any, part: Part) -> Iterator[str]:
    if not isinstance(node, dict) or "_target_" not in node:
        yield f"{path}: expected a mapping with a _target_"
    elif node["_target_"] is not None:
        passed = passed_down(node)
        automatic = [name for name in part.automatic if node.get(name) == "auto"]
        yield from check_target(path, node, part.supplied, {*part.ours, *passed, *automatic})
        yield from _partial(path, node.get("_partial_", False), part)
        for name, inside in passed.items():
            yield from missing_inside(f"{path}.{name}", node[name])
            if node[name] != node[inside][name] and not is_missing(node[inside][name]):
                yield f"{path}.{name}={node[name]!r} and {path}.{inside}.{name}={node[inside][name]!r}; set only one"
    elif not part.optional:
        yield f"{path}={node.get('name')}: there must be one"


def _partial(path: str, value: Any, part: Part) -> Iterator[str]:
    """Where the program passes arguments itself it does so whatever is said; elsewhere nothing would pass the rest."""
    if not isinstance(value, bool):
        yield f"{path}._partial_={value!r}; expected true or false"
    elif value and not part.supplied:
        yield f"{path}._partial_=true: graft passes it no further arguments; leave it out"


def passed_down(node: dict[str, Any]) -> dict[str, str]:
    """Keys at the top of a node that are no arguments of its target but of a node inside it, with that node's name."""
    try:
        accepted = arguments_of(node["_target_"])
    except UserError:  # check_target says so
        return {}
    inside = {name: value for name, value in node.items() if isinstance(value, dict) and "_target_" in value}
    return {
        key: name
        for name, value in inside.items()
        for key in value
        if key in node and key not in accepted and key not in SPECIAL
    }


def _settings(prefix: str, node: dict[str, Any], settings: dict[str, Any]) -> Iterator[str]:
    for name, hint in settings.items():
        value = node.get(name)
        if name not in node:
            if prefix:
                yield f"{prefix}{name}: is missing"
        elif is_missing(value):
            yield from missing_inside(f"{prefix}{name}", value)
        elif not fits(value, hint):
            rule = f"; write selection.rule={value}" if name == "selection" and isinstance(value, str) else ""
            yield f"{prefix}{name}={value!r}; expected {describe(hint)}{rule}"
    if prefix and prefix.rstrip(".") not in PARTS:
        known = {*settings, *(STAGE if prefix == "pretrain." else ())}
        for name in sorted(node.keys() - known):
            yield f"{prefix}{name}: no such key; {did_you_mean(name, known)}"


def _groups_of_parts(config: dict[str, Any]) -> Iterator[str]:
    pretrain, callbacks, after, baselines = (
        _mapping(config.get(name)) for name in ("pretrain", "callbacks", "after", "baselines")
    )
    for name, part in STAGE.items():
        if name in pretrain:
            yield from _part(f"pretrain.{name}", pretrain[name], part)
        elif pretrain:
            yield f"pretrain.{name}: is missing"
    for name, node in callbacks.items():
        yield from _part(f"callbacks.{name}", node, Part(optional=True))
    for name, node in _mapping(config.get("logger")).items():
        yield from _part(f"logger.{name}", node, LOGGER)
    groups = {"after": after, "baselines": baselines}
    groups |= {name: _mapping(config.get(name)) for name in ("regulariser", "adaptation")}
    for group, nodes in groups.items():
        for name, node in nodes.items():
            yield from _part(f"{group}.{name}", node, Part())


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
