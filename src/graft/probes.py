"""Many linear heads on features that lie in memory: a grid trained at once, or a path of regularisation solved."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import LBFGS, SGD, AdamW, Optimizer

from graft.data.datasets import EpochSampler
from graft.errors import UserError
from graft.models.heads.linear import LinearHead
from graft.models.network import initial_weights
from graft.seeds import stable_seed

MAX_ITERATIONS = 1000  # of L-BFGS for one strength; a warm start takes a few dozen
NEGLIGIBLE = 1e-30  # a probability that changes no float32 weight
ROWS_AT_ONCE = 4096  # samples whose logits under all heads are held together when they are scored


class Probe(NamedTuple):
    """How one head is trained."""

    lr: float
    weight_decay: float
    seed: int  # of its initial weights and its batches


@dataclass(frozen=True)
class Grid:
    """Every combination of learning rates, weight decays and seeds.

    Raises:
        UserError: a list is empty, a learning rate is not above 0, or a weight decay is below 0.
    """

    lrs: tuple[float, ...]
    weight_decays: tuple[float, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("lrs", "weight_decays", "seeds"):
            if not getattr(self, name):
                raise UserError(f"probes: {name} is empty; expected one value or more")
        if min(self.lrs) <= 0:
            raise UserError(f"probes: lrs={list(self.lrs)}; expected numbers above 0")
        if min(self.weight_decays) < 0:
            raise UserError(f"probes: weight_decays={list(self.weight_decays)}; expected numbers from 0 on")

    @property
    def probes(self) -> tuple[Probe, ...]:
        """One entry a head, in the order of `Heads`: seed by seed, and in each lr by lr."""
        return tuple(Probe(lr, decay, seed) for seed, lr, decay in product(self.seeds, self.lrs, self.weight_decays))


@dataclass(frozen=True)
class Heads:
    """N linear heads."""

    weight: Tensor  # [N, k, d]
    bias: Tensor  # [N, k]

    def logits(self, features: Tensor) -> Tensor:
        """Logits [N, n, k] of features [n, d] under every head."""
        num_heads, num_classes, num_features = self.weight.shape
        flat = F.linear(features, self.weight.reshape(-1, num_features), self.bias.reshape(-1))
        return flat.view(len(features), num_heads, num_classes).transpose(0, 1)

    @torch.no_grad()
    def accuracies(self, features: Tensor, labels: Tensor) -> Tensor:
        """Share [N] of the features [n, d] that each head gives its label [n]."""
        chunks = zip(features.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE), strict=True)
        hits = sum((self.logits(x).argmax(dim=2) == y).sum(dim=1) for x, y in chunks)
        return torch.as_tensor(hits) / len(labels)


@torch.no_grad()
def train_heads(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    grid: Grid,
    optimizer: Callable[..., Optimizer],
    schedule: Callable[[int, int], float],
    max_epochs: int,
    batch_size: int,
) -> Heads:
    """Train a linear head for every point of the grid, all at once, on cross-entropy.

    Each head is the one that a linear probe of its learning rate, weight decay and seed trains alone, within rounding:
    the same initial weights, batches, schedule and optimiser.

    Args:
        features: [n, d].
        labels: class indices [n].
        num_classes: k.
        grid: what the N heads differ in.
        optimizer: a `functools.partial` of AdamW or SGD; its learning rate and weight decay give way to the grid's.
        schedule: factor on the learning rates at an optimiser step of so many (`graft.strategies.schedules`).
        max_epochs: epochs of every head.
        batch_size: the most samples in a batch.

    Returns:
        The heads in the order of `grid.probes`.

    Raises:
        UserError: another optimiser, labels that are no classes, or no samples in a batch.
    """
    _check(features, labels, num_classes)
    if batch_size < 1:
        raise UserError(f"probes: batch_size={batch_size}; expected a positive number")
    bank = _Bank(grid, features, num_classes, optimizer)
    samplers = [EpochSampler(len(labels), batch_size, stable_seed(seed, "order")) for seed in grid.seeds]
    total = max_epochs * len(samplers[0])
    for step, index in enumerate(_batches(samplers, max_epochs)):
        index = index.to(features.device)
        bank.step(features[index], labels[index], schedule(step, total))
    return bank.heads()


def _check(features: Tensor, labels: Tensor, num_classes: int) -> None:
    assert features.ndim == 2, features.shape
    assert labels.shape == features.shape[:1], (labels.shape, features.shape)
    if len(labels) == 0:
        raise UserError("probes: no samples to train on")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise UserError(f"probes: labels from {low} to {high}; expected class indices below {num_classes}")


def _batches(samplers: Sequence[EpochSampler], max_epochs: int) -> Iterator[Tensor]:
    """Positions [S, b] of the samples of every step, a row for each seed."""
    for epoch in range(max_epochs):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        for batches in zip(*samplers, strict=True):
            yield torch.from_numpy(np.stack(batches))


def _initial_head(seed: int, num_features: int, num_classes: int) -> LinearHead:
    """The new head that a run of that seed starts from."""
    with initial_weights(seed, "head"):
        return LinearHead(num_features, num_classes)


class _Bank:
    """The heads of a grid: S seeds, and for each the same H pairs of learning rate and weight decay.

    They are kept in units of their own learning rates, w = lr u: a step of AdamW or SGD is lr times a direction made
    of the gradient with respect to w, so one optimiser of learning rate 1 over u, given that gradient, steps them all.

    Heads of a seed see the same batch x [b, d], so that their logits are one product. They lie class by class, not
    head by head: the softmax then runs along whole rows of H numbers.
    """

    def __init__(self, grid: Grid, features: Tensor, num_classes: int, optimizer: Callable[..., Optimizer]) -> None:
        device, dtype = features.device, features.dtype
        settings = torch.tensor([(lr, decay) for lr, decay, _ in grid.probes], dtype=dtype, device=device)
        num_heads, num_features = len(grid.probes) // len(grid.seeds), features.shape[1]
        self.shape = (len(grid.seeds), num_classes, num_heads, num_features)
        # [1, 1, k H]: the same for every seed and class.
        self.lr, self.weight_decay = (
            column[:num_heads].repeat(num_classes)[None, None] for column in settings.unbind(dim=1)
        )
        initial = [_initial_head(seed, num_features, num_classes).linear for seed in grid.seeds]
        weight = torch.stack([linear.weight for linear in initial]).to(device, dtype)
        bias = torch.stack([linear.bias for linear in initial]).to(device, dtype)
        # [S, k H, d] and [S, 1, k H].
        self.weight = weight.repeat_interleave(num_heads, dim=1) / self.lr.mT
        self.bias = bias.repeat_interleave(num_heads, dim=1)[:, None] / self.lr
        self.weight.grad, self.bias.grad = torch.empty_like(self.weight), torch.empty_like(self.bias)
        self.decoupled = _decouples_weight_decay(optimizer)
        self.optimizer = optimizer([self.weight, self.bias], lr=1.0, weight_decay=0.0, fused=True)

    def step(self, x: Tensor, y: Tensor, factor: float) -> None:
        """One optimiser step of every head on its seed's batch, x [S, b, d] and y [S, b], at `factor` of its rate."""
        logit_gradient = self._logit_gradient(x, y)
        torch.bmm(logit_gradient.mT, x, out=self.weight.grad)
        torch.sum(logit_gradient, dim=1, keepdim=True, out=self.bias.grad)
        self._decay(factor)
        self.optimizer.param_groups[0]["lr"] = factor
        self.optimizer.step()

    def _logit_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Gradient [S, b, k H] of each head's mean cross-entropy: softmax minus one-hot label, over b.

        Heads of high learning rates are soon sure, and a processor multiplies by subnormal probabilities ten times
        more slowly than by others; none is left.
        """
        num_seeds, num_classes, num_heads, _ = self.shape
        logits = torch.baddbmm(self.bias, x, self.weight.mT).mul_(self.lr)
        gradient = logits.view(num_seeds, -1, num_classes, num_heads).softmax(dim=2)
        gradient = F.threshold(gradient, NEGLIGIBLE, 0.0)
        gradient -= F.one_hot(y, num_classes)[..., None]
        gradient /= x.shape[1]
        return gradient.flatten(start_dim=2)

    def _decay(self, factor: float) -> None:
        """Weight decay as the optimiser applies it: AdamW to the weights, SGD through the gradient."""
        for parameter, lr, decay in (
            (self.weight, self.lr.mT, self.weight_decay.mT),
            (self.bias, self.lr, self.weight_decay),
        ):
            if self.decoupled:
                parameter.mul_(1 - factor * lr * decay)
            else:
                assert parameter.grad is not None
                parameter.grad.addcmul_(parameter, lr * decay)

    def heads(self) -> Heads:
        """The heads as they stand."""
        num_seeds, num_classes, num_heads, num_features = self.shape
        weight = (self.weight * self.lr.mT).view(num_seeds, num_classes, num_heads, num_features)
        bias = (self.bias * self.lr).view(num_seeds, num_classes, num_heads)
        return Heads(weight.transpose(1, 2).flatten(0, 1), bias.transpose(1, 2).flatten(0, 1))


def _decouples_weight_decay(optimizer: Callable[..., Optimizer]) -> bool:
    kind: Any = optimizer.func if isinstance(optimizer, partial) else optimizer
    if kind not in (AdamW, SGD):
        raise UserError(f"probes: {getattr(kind, '__name__', kind)} cannot train many heads at once; use adamw or sgd")
    return kind is AdamW


def logistic_path(
    features: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float], tolerance: float = 1e-7
) -> Heads:
    """Minimise mean cross-entropy + strength / 2 ||W||^2 over W [k, d] and b [k], b not penalised, for each strength.

    L-BFGS (Liu and Nocedal 1989) goes from the strongest regularisation to the weakest and starts each problem from
    the solution before it (Friedman et al. 2010, 2.5). `strength` is 1 / (n C) of scikit-learn's LogisticRegression.
    It works in the precision of the features [n, d]; `labels` are class indices [n].

    A solution is one where no component of the gradient exceeds `tolerance`: 1e-7 gives coefficients to four digits in
    float64, while float32 stops where its rounding ends the descent.

    Returns:
        The heads in the order of `strengths`.

    Raises:
        UserError: no strength, one that is not above 0, or labels that are no classes.
    """
    _check(features, labels, num_classes)
    if not strengths or min(strengths) <= 0:
        raise UserError(f"probes: strengths={list(strengths)}; expected numbers above 0")
    weight = features.new_zeros(num_classes, features.shape[1]).requires_grad_()
    bias = features.new_zeros(num_classes).requires_grad_()
    solved: dict[float, tuple[Tensor, Tensor]] = {}
    for strength in sorted(set(strengths), reverse=True):
        _minimise(features, labels, weight, bias, strength, tolerance)
        solved[strength] = (weight.detach().clone(), bias.detach().clone())
    weights, biases = zip(*(solved[strength] for strength in strengths), strict=True)
    return Heads(torch.stack(weights), torch.stack(biases))


def folds_of(labels: Tensor, num_folds: int) -> Tensor:
    """The fold [n] of each sample, the same at every call: drawn at random, classes [n] spread over all folds."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    folds = torch.empty_like(labels)
    folds[by_class] = torch.arange(len(labels)) % num_folds
    return folds


def _minimise(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, strength: float, tolerance: float
) -> None:
    """Move weight [k, d] and bias [k] to the minimum for one strength."""
    solver = LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        max_eval=2 * MAX_ITERATIONS,
        tolerance_grad=tolerance,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(F.linear(features, weight, bias), labels) + strength / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
