"""AdaLoRA: low-rank matrices as singular triplets, of which those that matter least are given up in training."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graft.errors import UserError
from graft.models.adapters.base import Companion, StepNeed
from graft.models.adapters.checks import check_at_least_one, check_share
from graft.models.adapters.library import LibraryAdapter, convolution_refusal
from graft.models.backbones.base import Backbone

KEY = "default"  # PEFT's name for an adapter
PARTS = ("lora_A", "lora_E", "lora_B")  # PEFT's names: Q [r, d], diagonal of Lambda [r, 1], P [d', r]


@dataclass(frozen=True, kw_only=True)
class AdaLora(LibraryAdapter):
    """W x + s P Lambda Q x with P [d', r], Q [r, d], Lambda diagonal and zero at the start, s = alpha / initial_rank.

    Zhang et al., "Adaptive budget allocation for parameter-efficient fine-tuning", ICLR 2023, equation 3. A convolution
    has a matrix of all values under its kernel. What happens in training is `RankAllocation`.

    Args:
        initial_rank: r of every layer.
        target_rank: what is left of it in the end, as a mean over layers.
        alpha: the numerator of s.
        dropout: share of x that Q does not see in training.
        tinit: share of the stage's optimiser steps before any triplet is given up.
        tfinal: share of the stage's optimiser steps after the last one is.
        delta_t: optimiser steps from one allocation of ranks to the next.
        beta1: what the mean sensitivity keeps in each step.
        beta2: what the mean uncertainty keeps in each step.
        orthogonality: weight of the term that keeps the columns of P and the rows of Q orthonormal.

    Raises:
        UserError: ranks that leave nothing to give up, or a share or weight out of its range.
    """

    needs: ClassVar[frozenset[StepNeed]] = frozenset({"single_pass", "unscaled_gradients"})

    initial_rank: int = 12
    target_rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    tinit: float = 0.1
    tfinal: float = 0.3
    delta_t: int = 10
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.5

    def __post_init__(self) -> None:
        for key in ("target_rank", "delta_t"):
            check_at_least_one(self.name, key, getattr(self, key))
        for key in ("dropout", "tinit", "tfinal"):
            check_share(self.name, key, getattr(self, key))
        if self.initial_rank <= self.target_rank:
            raise self._error("initial_rank", f"more than target_rank={self.target_rank}")
        if self.tinit + self.tfinal >= 1:
            raise self._error("tfinal", f"less than 1 together with tinit={self.tinit}")
        for key in ("beta1", "beta2"):
            if not 0 < getattr(self, key) < 1:
                raise self._error(key, "more than 0 and less than 1")
        if not 0 <= self.orthogonality < float("inf"):
            raise self._error("orthogonality", "0 or more")

    def _error(self, key: str, expected: str) -> UserError:
        return UserError(f"adapter.{key}={getattr(self, key)}: adapter={self.name} expects {expected}")

    def refusal(self, layer: nn.Module, num_axes: int) -> str | None:
        """Also convolutions that have more than one matrix, or a padding of their own."""
        return super().refusal(layer, num_axes) or convolution_refusal(layer, can_dilate=True)

    def companion(self, backbone: Backbone) -> "RankAllocation":
        """What gives ranks up while the backbone is trained."""
        return RankAllocation(self, backbone)

    def report(self, backbone: Backbone) -> dict[str, Any]:
        """The rank that each layer is left with, by path."""
        layers = {path: module for path, module in backbone.named_modules() if _is_adapted(module)}
        return {"ranks": {path: int(_part(layer, "lora_E").count_nonzero()) for path, layer in layers.items()}}

    def _config(self, peft: Any, pattern: str) -> Any:
        return peft.AdaLoraConfig(
            init_r=self.initial_rank,
            target_r=self.target_rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=pattern,
            total_step=1,  # PEFT asks for it; the stage's own is known when it is trained
        )

    def _wrap(self, backbone: Backbone, layers: Mapping[str, nn.Module]) -> None:
        """With PEFT's constant in the scale, a parameter that is never trained, as the number that it is."""
        super()._wrap(backbone, layers)
        for layer in _adapted_layers(backbone):
            ranks = {key: float(value.numel()) for key, value in layer.lora_E.items()}
            del layer.ranknum
            layer.ranknum = ranks


class RankAllocation(Companion):
    """Gives up the singular triplets that matter least, over all layers together, until the target rank is reached.

    Algorithm 1 of the paper, on the layers that have been trained so far: those that a later phase thaws join in then,
    and keep their initial rank where that is after the last allocation. What is frozen is left alone. A stage that a
    callback ends early has given up less. As in the authors' published code, the sensitivity of a weight counts the
    weight after the step, with the step's gradient.
    """

    name: ClassVar[str] = "orthogonality"

    def __init__(self, settings: AdaLora, backbone: Backbone) -> None:
        super().__init__()
        self.settings = settings
        layers = _adapted_layers(backbone)
        self.importance: Iterable[Importance] = nn.ModuleList(map(Importance, layers))  # type: ignore[assignment]

    def penalty(self, backbone: Backbone) -> Tensor:
        """The weighted mean of the distances over all matrices Q and P' that are trained, a scalar."""
        layers = _adapted_layers(backbone)
        factors = [_part(layer, "lora_A") for layer in layers] + [_part(layer, "lora_B").mT for layer in layers]
        terms = [distance_from_orthonormal(factor) for factor in factors if factor.requires_grad]
        return self.settings.orthogonality * torch.stack(terms).mean() if terms else factors[0].new_zeros(())

    @torch.no_grad()
    def after_step(self, backbone: Backbone, step: int, num_steps: int) -> None:
        """Note what mattered in the step and give triplets up where one is due.

        After the last allocation importances stay as they are, so that the same triplets are given up at every step.
        """
        settings = self.settings
        tinit, tfinal = int(settings.tinit * num_steps), int(settings.tfinal * num_steps)
        last = num_steps - tfinal
        layers = _adapted_layers(backbone)
        trained = [all(_part(layer, name).requires_grad for name in PARTS) for layer in layers]
        if step < last:
            for layer, importance, moves in zip(layers, self.importance, trained, strict=True):
                if moves:
                    importance.observe(layer, settings.beta1, settings.beta2)
        if step > tinit and (step >= last or step % settings.delta_t == 0):
            progress = min(1.0, (step - tinit) / (last - tinit))
            self._allocate(layers, trained, progress)

    def _allocate(self, layers: list[nn.Module], trained: list[bool], progress: float) -> None:
        """Set the singular values to zero that the budget leaves out, in the layers that are trained."""
        scores = [importance.scores() for importance in self.importance]
        seen = torch.stack([values.any() for values in scores]).tolist()
        ranked = [index for index, any_seen in enumerate(seen) if any_seen]
        if not ranked:
            return
        initial, target = (len(ranked) * rank for rank in (self.settings.initial_rank, self.settings.target_rank))
        masks = kept([scores[index] for index in ranked], budget(initial, target, progress))
        for index, mask in zip(ranked, masks, strict=True):
            if trained[index]:
                _part(layers[index], "lora_E").masked_fill_(~mask[:, None], 0.0)


class Importance(nn.Module):
    """The running means that the importance of one layer's triplets is made of."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name in PARTS:
            for mean in ("sensitivity", "uncertainty"):
                self.register_buffer(f"{mean}_{name}", torch.zeros_like(_part(layer, name), requires_grad=False))

    def observe(self, layer: nn.Module, beta1: float, beta2: float) -> None:
        """Take in the layer's weights and their gradients, where the loss depends on them."""
        for name in PARTS:
            part = _part(layer, name)
            if part.grad is not None:
                means = self.get_buffer(f"sensitivity_{name}"), self.get_buffer(f"uncertainty_{name}")
                smooth(*means, part * part.grad, beta1, beta2)

    def scores(self) -> Tensor:
        """The importance [r] of each triplet."""
        a, e, b = (self.get_buffer(f"sensitivity_{name}") * self.get_buffer(f"uncertainty_{name}") for name in PARTS)
        return triplet_importance(a, e, b)


def smooth(sensitivity: Tensor, uncertainty: Tensor, products: Tensor, beta1: float, beta2: float) -> None:
    """Move both means, in place, by a step's products of weights and gradients, all of one shape.

    Equations 8, 9 and 10 of the paper: I = |w g|, its mean beta1 mean + (1 - beta1) I, and the mean of what I differs
    from that mean by, beta2 mean + (1 - beta2) |I - mean of I|.
    """
    sensitivities = products.abs()
    sensitivity.lerp_(sensitivities, 1 - beta1)
    uncertainty.lerp_((sensitivities - sensitivity).abs_(), 1 - beta2)


def triplet_importance(a: Tensor, e: Tensor, b: Tensor) -> Tensor:
    """Importances [r] of triplets from those of their weights in Q [r, d], Lambda [r, 1] and P [d', r].

    Equation 7 of the paper: that of the singular value, and the means over each singular vector.
    """
    return e[:, 0] + a.mean(dim=1) + b.mean(dim=0)


def budget(initial: int, target: int, progress: float) -> int:
    """How many triplets are kept: from the initial number to the target's along a cubic, by progress in [0, 1].

    Equation 12 of the paper, rounded down.
    """
    return int(target + (initial - target) * (1 - progress) ** 3)


def kept(scores: list[Tensor], number: int) -> list[Tensor]:
    """Which triplets [r] of each layer are among the most important over all; the first of several equal ones.

    Equation 6 of the paper.
    """
    together = torch.cat(scores)
    mask = torch.zeros_like(together, dtype=torch.bool)
    mask[together.argsort(descending=True, stable=True)[:number]] = True
    return list(mask.split([len(values) for values in scores]))


def distance_from_orthonormal(rows: Tensor) -> Tensor:
    """||Q Q' - I||, a scalar, the Frobenius norm for rows Q [r, d].

    Equation 4 of the paper, but for the square, which the authors' published code does not take either.
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return torch.linalg.matrix_norm(rows @ rows.mT - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))


def _is_adapted(module: nn.Module) -> bool:
    return hasattr(module, "lora_E")


def _adapted_layers(backbone: Backbone) -> list[Any]:
    return [module for module in backbone.modules() if _is_adapted(module)]


def _part(layer: nn.Module, name: str) -> nn.Parameter:
    parameter: nn.Parameter = getattr(layer, name)[KEY]
    return parameter
