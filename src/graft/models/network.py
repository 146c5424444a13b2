"""Backbone, mapping and head as one network whose parameters have names that strategies can speak of."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from graft.models.backbones.base import Backbone
from graft.models.heads.base import Head
from graft.models.mappings.base import Mapping
from graft.seeds import stable_seed


@contextmanager
def initial_weights(seed: int, part: str) -> Iterator[None]:
    """Whatever is built meanwhile gets the weights that a run's seed gives this part ("backbone", "mapping", "head").

    They are drawn on the CPU, whose global generator is left as it was. `torch.manual_seed` would also queue a call,
    with its stack trace, for every CUDA device that is not in use.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stable_seed(seed, part))
        yield


class Network(nn.Module):
    """`head(mapping(backbone(x)))`.

    Raises:
        AssertionError: the parts were built for different numbers of features.
    """

    def __init__(self, backbone: Backbone, mapping: Mapping, head: Head) -> None:
        super().__init__()
        assert mapping.num_features == backbone.num_features, (mapping.num_features, backbone.num_features)
        assert head.num_features == mapping.num_outputs, (head.num_features, mapping.num_outputs)
        self.backbone = backbone
        self.mapping = mapping
        self.head = head

    def features(self, x: Tensor, cut: int = 0) -> Tensor:
        """Mapped features [n, d'] of inputs [n, ...], or of what the backbone's first `cut` groups made of them."""
        mapped: Tensor = self.mapping(self.backbone.forward_from(cut, x))
        return mapped

    def forward(self, x: Tensor, cut: int = 0) -> Tensor:
        """Logits [n, k] of inputs [n, ...], or of what the backbone's first `cut` groups made of them."""
        logits: Tensor = self.head(self.features(x, cut))
        return logits

    @property
    def dtype(self) -> torch.dtype:
        """What its weights, and so its inputs, are kept in."""
        return next(parameter.dtype for parameter in self.parameters())

    def named_groups(self) -> dict[str, nn.Module]:
        """`backbone.<group>` for each layer group, `mapping`, `head`: in order from input to output."""
        groups = {f"backbone.{name}": group for name, group in self.backbone.layer_groups.items()}
        return {**groups, "mapping": self.mapping, "head": self.head}

    def units(self) -> list[nn.Module]:
        """Modules that are called as a whole and together hold every parameter, inner ones first."""
        return [*self.backbone.units(), self.mapping, self.head]

    def named_group_parameters(self) -> list[tuple[str, str, Parameter]]:
        """Every parameter once, in order, as (full name, group, parameter): ("head.linear.weight", "head", ...)."""
        return [
            (f"{group}.{path}", group, parameter)
            for group, module in self.named_groups().items()
            for path, parameter in module.named_parameters()
        ]

    @property
    def fixed_names(self) -> frozenset[str]:
        """Full names of the parameters that an adapter keeps as they are: all of the backbone's own."""
        adaptation = self.backbone.adaptation
        if adaptation is None:
            return frozenset()
        return frozenset(
            name
            for name, group, _ in self.named_group_parameters()
            if group.startswith("backbone.") and name.removeprefix("backbone.") not in adaptation.added
        )

    def solved_names(self) -> tuple[str, ...]:
        """Names of what is computed in closed form rather than trained, such as `head.weight` of the ridge head."""
        return tuple(
            f"{name}.{path}"
            for name, module in (("mapping", self.mapping), ("head", self.head))
            if hasattr(module, "solve")
            for path, _ in module.named_buffers()
        )
