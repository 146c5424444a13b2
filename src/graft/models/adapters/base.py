"""What every adapter offers, and what a backbone says of the one it carries."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from graft.errors import UserError
from graft.models.adapters.layers import Targets, find_layers
from graft.models.backbones.base import Backbone

StepNeed = Literal[
    "single_pass",  # an optimizer that takes one pass a step
    "unscaled_gradients",  # of a loss that is not scaled
]


@dataclass(frozen=True)
class Adaptation:
    """What an adapter did to a backbone."""

    adapter: "Adapter"
    added: frozenset[str]  # names <group>.<path> of the parameters it brought; all others of the backbone are fixed
    layers: tuple[str, ...]  # paths of the layers it took
    skipped: Mapping[str, str]  # paths of the layers it was meant for and could not take, with the reason

    @property
    def undecayed(self) -> frozenset[str]:
        """Names of the parameters it brought that a weight decay would draw away from where they change nothing."""
        return frozenset(name for name in self.added if any(part in name for part in self.adapter.undecayed))


class Companion(nn.Module):
    """What an adapter does while the backbone that it is in is trained; its buffers are in the checkpoints."""

    name: ClassVar[str]  # of its share of the loss in the training log

    def penalty(self, backbone: Backbone) -> Tensor:
        """Its share of the loss, weighted, a scalar."""
        raise NotImplementedError

    def after_step(self, backbone: Backbone, step: int, num_steps: int) -> None:
        """Act after the optimizer's step number `step`, from 1 on, of the `num_steps` of the stage.

        The step's gradients are still there.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A parametrisation: it adds parameters to a backbone, whose own are fixed from then on.

    What is added lies in the layer group of the layer it belongs to, so that a strategy's rules for the group decide
    about it. The fields are all that decides what is added.
    """

    name: str
    mergeable: ClassVar[bool] = False  # whether the adapted backbone can be written as a plain one
    contiguous_only: ClassVar[bool] = False  # whether it does without `channels_last`
    needs: ClassVar[frozenset[StepNeed]] = frozenset()  # what each step of the optimizer must be like
    undecayed: ClassVar[tuple[str, ...]] = ()  # parts of the names of its parameters that change nothing at 1, not at 0

    def adapt(self, backbone: Backbone, size: int) -> Backbone:
        """The backbone with the adapter in it, which may be the same object; its weights are drawn now.

        Args:
            backbone: plain, with the weights that are to stay.
            size: height and width of its inputs.

        Raises:
            UserError: the adapter does not fit the backbone, or needs a package that is not there.
        """
        own = {id(parameter) for parameter in backbone.parameters()}
        adapted, layers, skipped = self._install(backbone, size)
        added = {
            f"{group}.{path}"
            for group, module in adapted.layer_groups.items()
            for path, parameter in module.named_parameters()
            if id(parameter) not in own and parameter.requires_grad
        }
        adapted.adaptation = Adaptation(self, frozenset(added), layers, skipped)
        return adapted

    def merge(self, backbone: Backbone) -> Backbone:
        """A plain copy that computes what the adapted backbone does in eval mode; of mergeable adapters only."""
        raise NotImplementedError

    def companion(self, backbone: Backbone) -> Companion | None:
        """What the adapter does while the backbone that it is in is trained, from its start; None: nothing."""
        return None

    def report(self, backbone: Backbone) -> dict[str, Any]:
        """What the record says of the trained adapter in the backbone, beside its size."""
        return {}

    def _install(self, backbone: Backbone, size: int) -> tuple[Backbone, tuple[str, ...], dict[str, str]]:
        """The adapted backbone, the layers taken, and those that could not be, with the reason."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LayerAdapter(Adapter):
    """An adapter that is put around single layers."""

    targets: Targets

    def refusal(self, layer: nn.Module, num_axes: int) -> str | None:
        """Why a linear layer or convolution cannot be taken, such as "grouped convolutions"; None where it can.

        Its inputs have `num_axes` axes.
        """
        raise NotImplementedError

    def _install(self, backbone: Backbone, size: int) -> tuple[Backbone, tuple[str, ...], dict[str, str]]:
        taken, skipped = find_layers(backbone, size, self.targets, self.refusal)
        if not taken:
            why = _reasons(skipped) or f"adapter.targets asks for {self.targets}"
            raise UserError(f"adapter={self.name}: no layer of {backbone.name} can take it: {why}")
        self._wrap(backbone, taken)
        return backbone, tuple(taken), skipped

    def _wrap(self, backbone: Backbone, layers: Mapping[str, nn.Module]) -> None:
        """Put the adapter around the layers at these paths."""
        raise NotImplementedError


def count_reasons(skipped: Mapping[str, str]) -> dict[str, int]:
    """How many layers were skipped for each reason."""
    reasons = list(skipped.values())
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def _reasons(skipped: Mapping[str, str]) -> str:
    return ", ".join(f"{count} left out ({reason})" for reason, count in count_reasons(skipped).items())


def merged(backbone: Backbone) -> Backbone:
    """A plain backbone that computes what this one does in eval mode; itself where it is plain or cannot be merged."""
    adaptation = backbone.adaptation
    return adaptation.adapter.merge(backbone) if adaptation and adaptation.adapter.mergeable else backbone


def companion_of(backbone: Backbone) -> Companion | None:
    """What the backbone's adapter does while it is trained; None without an adapter, or where it does nothing."""
    return None if backbone.adaptation is None else backbone.adaptation.adapter.companion(backbone)


def adapter_settings(backbone: Backbone) -> list[dict[str, Any]]:
    """For hashes: the settings of the backbone's adapter, which its state does not tell; empty without one."""
    return [] if backbone.adaptation is None else [asdict(backbone.adaptation.adapter)]
