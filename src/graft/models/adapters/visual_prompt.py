"""Visual prompts: a learnt frame on every image."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graft.errors import UserError
from graft.models.adapters.base import Adapter
from graft.models.adapters.checks import check_at_least_one, image_channels
from graft.models.adapters.layers import call_once, replace_module
from graft.models.backbones.base import Backbone


@dataclass(frozen=True, kw_only=True)
class VisualPrompt(Adapter):
    """x + p, where p is the same for all images and zero inside a frame of `width` pixels.

    Bahng et al., "Exploring visual prompts", 2022, section 3. x is the image as the backbone is given it, after
    preprocessing; p starts at zero. It belongs to the layer that sees the image, and cannot be merged.

    Raises:
        UserError: a width below 1 or of half the image and more, or a backbone none of whose layers sees the image.
    """

    width: int = 4

    def __post_init__(self) -> None:
        check_at_least_one(self.name, "width", self.width)

    def _install(self, backbone: Backbone, size: int) -> tuple[Backbone, tuple[str, ...], dict[str, str]]:
        channels = image_channels(backbone, self.name)
        if 2 * self.width >= size:
            raise UserError(f"adapter.width={self.width}: adapter={self.name} expects less than half of {size} pixels")
        first = first_layer(backbone, size)
        path = next(name for name, module in backbone.named_modules() if module is first)
        replace_module(backbone, path, Prompted(first, channels, size, self.width))
        return backbone, (path,), {}


def first_layer(backbone: Backbone, size: int) -> nn.Module:
    """The linear layer or convolution that is given the image itself.

    Raises:
        UserError: there is none.
    """
    given: list[nn.Module] = []
    shape = (1, *backbone.preprocessing.with_size(size).shape)

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear) and tuple(inputs[0].shape) == shape:
            given.append(module)

    call_once(backbone, size, note)
    if not given:
        raise UserError(f"adapter=visual_prompt: no layer of {backbone.name} sees the image as it is given")
    return given[0]


class Prompted(nn.Module):
    """A layer that sees its image [n, c, size, size] with a learnt frame added."""

    positions: Tensor  # of the frame's pixels, row by row

    def __init__(self, layer: nn.Module, channels: int, size: int, width: int) -> None:
        super().__init__()
        self.base_layer = layer
        self.size = size
        inside = torch.zeros(size, size, dtype=torch.bool)
        inside[width : size - width, width : size - width] = True
        self.register_buffer("positions", (~inside).flatten().nonzero().squeeze(1), persistent=False)
        self.prompt = nn.Parameter(torch.zeros(channels, len(self.positions)))

    def forward(self, x: Tensor) -> Tensor:
        """What the layer makes of the framed image."""
        frame = self.prompt.new_zeros(len(self.prompt), self.size**2).index_copy(1, self.positions, self.prompt)
        framed: Tensor = self.base_layer(x + frame.view(-1, self.size, self.size))
        return framed
