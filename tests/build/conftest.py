"""Configurations as the command line composes them."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from graft.cli.compose import compose, hydra_application

Composed = Callable[..., dict[str, Any]]


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    with hydra_application() as hydra:
        return compose(hydra.config_loader, overrides)


@pytest.fixture
def composed() -> Composed:
    """The plain configuration for some overrides, to be changed at will."""

    def make(*overrides: str) -> dict[str, Any]:
        config: dict[str, Any] = _copy(_composed(overrides))
        return config

    return make


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return list(map(_copy, value)) if isinstance(value, list) else value
