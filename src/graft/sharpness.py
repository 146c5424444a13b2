"""Sharpness-aware minimisation of a phase's objective."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from graft.batch import LabelledBatch
from graft.module import GraftModule


class SharpnessAwareModule(GraftModule):
    """Steps by the gradient at w + rho g / ||g||, where g is the batch's gradient at the weights w.

    Foret et al., "Sharpness-aware minimization for efficiently improving generalization", ICLR 2021, equations 2 and 3
    (p = 2): the step is the optimizer's own, from w. The norm is over all trained weights together. Both passes see the
    same view of the batch and the same dropout; norm statistics, and whatever else is kept in buffers, follow the first
    pass alone. Where several processes or several batches share a step, each has a point of its own, as in section 4.1.

    Args:
        rho: the distance, above 0.
    """

    def __init__(self, *args: Any, rho: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rho = rho
        self._left: list[tuple[nn.Parameter, Tensor]] = []  # weights that are away, and what they were

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> Tensor:
        """The objective's total at the worst point nearby; what is logged is the one at the weights themselves."""
        self._come_back()
        self._go_away(super().training_step(batch, batch_idx))
        with buffers_kept(self):
            return self.training_losses(batch, batch_idx).total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """The step is from the weights themselves."""
        self._come_back()

    @torch.no_grad()
    def _go_away(self, loss: Tensor) -> None:
        trained = [parameter for group in self.trainer.optimizers[0].param_groups for parameter in group["params"]]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        moving = [(p, gradient) for p, gradient in zip(trained, gradients, strict=True) if gradient is not None]
        norm = nn.utils.get_total_norm([gradient for _, gradient in moving])
        scale = self.rho / (norm + 1e-12)
        for parameter, gradient in moving:
            self._left.append((parameter, parameter.clone()))
            parameter.add_(gradient * scale)

    @torch.no_grad()
    def _come_back(self) -> None:
        for parameter, weights in self._left:
            parameter.copy_(weights)
        self._left = []


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Let the module's buffers be copies within the block, so that they are afterwards what they were before."""
    own = [(owner, name, buffer) for owner in module.modules() for name, buffer in owner.named_buffers(recurse=False)]
    for owner, name, buffer in own:
        setattr(owner, name, buffer.clone())
    try:
        yield
    finally:
        for owner, name, buffer in own:
            setattr(owner, name, buffer)
