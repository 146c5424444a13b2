"""Checks that several adapters have in common."""

from graft.data.preprocessing import Preprocessing
from graft.errors import UserError
from graft.models.backbones.base import Backbone


def check_at_least_one(name: str, key: str, value: int) -> None:
    """Raise UserError for a number of ranks, channels or pixels below 1."""
    if value < 1:
        raise UserError(f"adapter.{key}={value}: adapter={name} expects 1 or more")


def check_share(name: str, key: str, value: float) -> None:
    """Raise UserError unless a dropout is a share below 1."""
    if not 0 <= value < 1:
        raise UserError(f"adapter.{key}={value}: adapter={name} expects 0 or more and less than 1")


def image_channels(backbone: Backbone, name: str) -> int:
    """Channels of the images that a backbone takes.

    Raises:
        UserError: it takes no images, and the adapter of that name works on pixels.
    """
    inputs = backbone.preprocessing
    if not isinstance(inputs, Preprocessing):
        said = f"adapter={name}: it changes images, and backbone={backbone.name} takes {inputs.modality}"
        raise UserError(f"{said}; try adapter=lora")
    return inputs.channels
