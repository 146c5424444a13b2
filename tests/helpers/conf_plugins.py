"""Plug-ins found by walking `conf`, built without Hydra."""

from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"
NOT_ARGUMENTS = ("_target_", "weights", "reinitialise", "defaults")  # `weights` and `reinitialise` are read by `build`


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.name.startswith("_"))


def load(group: str, name: str) -> dict[str, Any]:
    """One YAML with those of its own group that it builds upon."""
    own = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    bases = [base for base in own.get("defaults", []) if isinstance(base, str) and base != "_self_"]
    merged: dict[str, Any] = {}
    for base in bases:
        merged |= load(group, base)
    return merged | own


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NOT_ARGUMENTS}


def build(config: dict[str, Any], **extra: Any) -> Any:
    module, _, name = config["_target_"].rpartition(".")
    return getattr(import_module(module), name)(**extra, **arguments(config))


def has_placeholder(config: dict[str, Any]) -> bool:
    """Whether the user must say more before it can be built, such as the name of the model."""
    return "???" in arguments(config).values()
