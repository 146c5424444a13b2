"""Checks that several adapters have in common."""

from graft.errors import UserError


def check_at_least_one(name: str, key: str, value: int) -> None:
    """Raise UserError for a number of ranks, channels or pixels below 1."""
    if value < 1:
        raise UserError(f"adapter.{key}={value}: adapter={name} expects 1 or more")


def check_share(name: str, key: str, value: float) -> None:
    """Raise UserError unless a dropout is a share below 1."""
    if not 0 <= value < 1:
        raise UserError(f"adapter.{key}={value}: adapter={name} expects 0 or more and less than 1")
