"""Adapters of the PEFT library (Mangrulkar et al. 2022), which is imported only where one is chosen."""

import re
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from graft.errors import UserError
from graft.models.adapters.attention import OpenAttention
from graft.models.adapters.base import LayerAdapter
from graft.models.adapters.layers import replace_module
from graft.models.backbones.base import Backbone

# What PEFT says that is meant to be so here, with the reason.
EXPECTED_WARNINGS = (
    r"Specified to not save vera_A and vera_B",  # the projections are drawn again from their seed
    r"Invalid `oft_block_size`",  # the nearest divisor of the layer's inputs, as conf/adapter/oft.yaml says
)


@dataclass(frozen=True, kw_only=True)
class LibraryAdapter(LayerAdapter):
    """An adapter of PEFT; the backbone it is merged into is plain again."""

    mergeable: ClassVar[bool] = True

    def refusal(self, layer: nn.Module, num_axes: int) -> str | None:
        """Subclasses that compute something else with their weights, and what PEFT cannot do."""
        if type(layer) not in (nn.Linear, nn.Conv2d):
            return f"{type(layer).__name__} layers"
        return None

    def merge(self, backbone: Backbone) -> Backbone:
        """A plain copy that computes what the adapted backbone does in eval mode."""
        plain = deepcopy(backbone).to(memory_format=torch.contiguous_format)
        layer_class = library(self.name).tuners.tuners_utils.BaseTunerLayer
        for path, module in list(plain.named_modules()):
            if isinstance(module, layer_class):
                module.merge()
                replace_module(plain, path, module.get_base_layer())
        for path, module in list(plain.named_modules()):
            if isinstance(module, OpenAttention):
                replace_module(plain, path, module.closed())
        del plain.peft_config
        plain.adaptation = None
        return plain

    def _wrap(self, backbone: Backbone, layers: Mapping[str, nn.Module]) -> None:
        peft = library(self.name)
        with warnings.catch_warnings():
            for message in EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            config = self._config(peft, "|".join(re.escape(path) for path in layers))
            peft.get_peft_model(backbone, config)  # changes the backbone itself

    def _config(self, peft: Any, pattern: str) -> Any:
        """PEFT's configuration for the layers whose paths the pattern matches in full."""
        raise NotImplementedError


def library(name: str) -> Any:
    """The package PEFT.

    Raises:
        UserError: it is not installed.
    """
    try:
        with torch.device("cpu"):  # whatever it makes while it is imported is kept
            import peft
    except ImportError as error:
        raise UserError(f"adapter={name}: peft is not installed; pip install 'graft[peft]'") from error
    return peft


def convolution_refusal(layer: nn.Module, can_dilate: bool = False) -> str | None:
    """Why a low-rank part cannot be put beside a convolution; PEFT's pairs have only its kernel, stride, padding."""
    if not isinstance(layer, nn.Conv2d):
        return None
    if layer.groups > 1:
        return "grouped convolutions, which PEFT cannot merge"
    if set(layer.dilation) != {1} and not can_dilate:
        return "dilated convolutions, which PEFT does not reproduce"
    if layer.padding_mode != "zeros":
        return f"convolutions with {layer.padding_mode} padding, which PEFT does not reproduce"
    return None
