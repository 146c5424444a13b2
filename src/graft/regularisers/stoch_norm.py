"""StochNorm: batch normalisation that now and then trusts its moving statistics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from graft.errors import UserError
from graft.models.network import Network
from graft.regularisers.base import Beginning, Need, Regulariser, Term
from graft.strategies.phases import ResolvedPhase

Statistics = tuple[Tensor, Tensor]  # mean and variance, [c] each


def stochastic_normalisation(by_batch: Tensor, by_moving: Tensor, p: float) -> Tensor:
    """(1 - s) by_batch + s by_moving, where s is 1 with probability p, drawn for each channel.

    Kou et al., "Stochastic normalization", NeurIPS 2020, equation 4. Both are [n, c, ...]: the input normalised by the
    batch's statistics and by the moving ones. Draws from the global generator.
    """
    channels = torch.rand(by_batch.shape[1], device=by_batch.device) < p
    return torch.where(channels.view(1, -1, *[1] * (by_batch.ndim - 2)), by_moving, by_batch)


@dataclass(frozen=True)
class StochNorm(Regulariser):
    """In train mode, each channel of a batch norm is normalised by its moving statistics with probability p.

    Evaluation and the moving statistics themselves are as ever, and so are the weights' names.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"whole_batch"})

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.p <= 1.0:
            raise UserError(f"p={self.p!r}; expected a probability")

    def check(self, network: Network, phases: Sequence[ResolvedPhase]) -> None:
        """There are batch norms, some phase trains the layer group of one, and their statistics are not fixed."""
        groups = {
            name for name, group in network.named_groups().items() if any(map(_keeps_statistics, group.modules()))
        }
        if not groups:
            raise UserError("it acts on batch norms, and this network has none")
        if network.backbone.adaptation is not None:
            name = network.backbone.adaptation.adapter.name
            raise UserError(f"it acts on batch norms in train mode, and adapter={name} keeps them as they are")
        if not any(phase.norm_statistics == "follow" and groups.intersection(phase.trained_groups) for phase in phases):
            raise UserError("it acts on batch norms in train mode, and this strategy has none in it")

    def begin(self, beginning: Beginning) -> Term | None:
        """Nothing is added to the loss."""
        return None

    def attach(self, network: Network) -> list[RemovableHandle]:
        """Hooks around every batch norm."""
        return [
            handle
            for module in network.modules()
            if isinstance(module, _BatchNorm) and _keeps_statistics(module)
            for handle in _Mixture(self.p).attach(module)
        ]


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


class _Mixture:
    """Mixes what a batch norm makes of its input with what its statistics of before this batch make of it."""

    before: Statistics

    def __init__(self, p: float) -> None:
        self.p = p

    def attach(self, module: _BatchNorm) -> tuple[RemovableHandle, RemovableHandle]:
        return module.register_forward_pre_hook(self.keep), module.register_forward_hook(self.mix)

    def keep(self, module: _BatchNorm, args: Any) -> None:
        if module.training:
            assert module.running_mean is not None
            assert module.running_var is not None
            self.before = module.running_mean.clone(), module.running_var.clone()

    def mix(self, module: _BatchNorm, args: tuple[Tensor], output: Tensor) -> Tensor:
        if not module.training:
            return output
        by_moving = batch_norm(args[0], *self.before, module.weight, module.bias, training=False, eps=module.eps)
        return stochastic_normalisation(output, by_moving, self.p)
