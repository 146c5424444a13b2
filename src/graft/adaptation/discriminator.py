"""What tells the domains apart, for adversarial methods."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from graft.adaptation.base import ALIGNS, Adaptation
from graft.errors import UserError
from graft.models.network import initial_weights
from graft.regularisers.base import Beginning, Need, Step, Term, full_precision


class Discriminator(nn.Module):
    """Two hidden layers with ReLU and one output without: a logit, above 0 for the source, or a critic's value.

    A softmax over one output would always be 1 and give no gradient; so the loss is taken of the logit.

    Args:
        num_inputs: d.
        num_hidden: width of each hidden layer.
    """

    def __init__(self, num_inputs: int, num_hidden: int) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(num_inputs, num_hidden)
        self.hidden2 = nn.Linear(num_hidden, num_hidden)
        self.output = nn.Linear(num_hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [n], in float32 at least, of inputs [n, d]."""
        hidden = self.hidden1(x.to(self.output.weight.dtype)).relu()
        return full_precision(self.output(self.hidden2(hidden).relu())[:, 0])

    def of_both(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [n_s] and [n_t] of inputs [n_s, d] and [n_t, d], in one pass."""
        outputs: Tensor = self(torch.cat([source, target]))
        return outputs[: len(source)], outputs[len(source) :]


def domain_loss(source: Tensor, target: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Cross-entropy of logits [n_s] and [n_t] on source = 1 and target = 0, a scalar; about ln 2 for logits near 0.

    The mean of the two domains' means, so that neither counts more for having more images. `weights`, [n_s] and [n_t],
    multiply the samples' losses; each has mean 1.
    """
    losses = []
    for i, logits in enumerate((source, target)):
        labels = torch.full_like(logits, 1.0 - i)
        loss = binary_cross_entropy_with_logits(logits, labels, reduction="none")
        losses.append((loss if weights is None else weights[i] * loss).mean())
    return (losses[0] + losses[1]) / 2


def domain_accuracy(source: Tensor, target: Tensor) -> Tensor:
    """Share of logits [n_s] above 0 and of [n_t] below, a scalar without gradient: the mean of the two domains' shares.

    1/2 where the discriminator cannot tell them apart.
    """
    return ((source.detach() > 0).float().mean() + (target.detach() < 0).float().mean()) / 2


@dataclass(frozen=True)
class Adversarial(Adaptation):
    """Settings of a method with a discriminator.

    One whose discriminator is given the features alone is its `adversarial_loss`.

    Args:
        num_hidden: width of the discriminator's two hidden layers.
    """

    closed_set: ClassVar[str] = ALIGNS
    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features"})

    gamma: float | None = 10.0
    num_hidden: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_hidden < 1:
            raise UserError(f"num_hidden={self.num_hidden!r}; expected 1 or more")

    def discriminator(self, num_inputs: int, seed: int) -> Discriminator:
        """One for inputs [n, d], with the initial weights that a stage's seed gives it."""
        with initial_weights(seed, type(self).__name__):
            return Discriminator(num_inputs, self.num_hidden)

    def adversarial_loss(self, step: Step, discriminator: Discriminator) -> tuple[Tensor, dict[str, Tensor]]:
        """What one step adds to the loss, a scalar, weighted where the method says; and figures to be logged."""
        raise NotImplementedError

    def begin(self, beginning: Beginning) -> Term:
        """With a discriminator of features whose initial weights are drawn from the stage's seed."""
        num_features = beginning.network.head.num_features
        return _AdversarialTerm(self, self.discriminator(num_features, beginning.seed))


class _AdversarialTerm(Term):
    def __init__(self, settings: Adversarial, discriminator: Discriminator) -> None:
        super().__init__()
        self.settings = settings
        self.discriminator = discriminator

    def forward(self, step: Step) -> Tensor:
        loss, self.figures = self.settings.adversarial_loss(step, self.discriminator)
        return loss
